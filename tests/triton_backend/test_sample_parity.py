"""Sampling in Triton's interpreter draws exactly the tokens of the reference."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from support.draws import INF, KINDS, Draw, assert_same_choice, draws, expected_tokens
from support.strategies import DTYPES, LAYOUTS, normal

import ssg_kernels
from ssg_kernels import _triton, reference
from ssg_kernels._triton import launch

ONE = None  # stands for top_k = 1
# The part of the vocabulary that top-k keeps, and top_p.
FILTERS = ((0, 0.0), (0.3, 0.9), (0, 0.75), (0.5, 0.0), (ONE, 0.5), (0, 1.0), (1, 1e-17))

# The interpreter computes with numpy, which warns of overflow in exp and of sums over values that belong to no row.
pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
]


@pytest.fixture(params=["whole", "tiles"])
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs a test with rows that a program holds whole, and with rows that it reads in tiles."""
    launch._launches.clear()
    if request.param == "tiles":
        monkeypatch.setattr(launch, "_WIDEST_ROW", 64)
    yield request.param
    launch._launches.clear()


def check(call: Draw) -> None:
    logits, uniform = call.logits(), call.uniform((torch.float32, torch.float64)[call.seed % 2])
    tokens = _triton.sample(logits, uniform, call.scale, call.top_k, call.top_p)
    assert tokens.dtype == torch.int64
    assert tokens.is_contiguous()
    assert torch.equal(tokens, expected_tokens(call, logits, uniform))


def test_filters_of_each_sample() -> None:
    call = Draw(40, 4, 3)
    logits, uniform = call.logits(), call.uniform()
    top_p = torch.tensor([0.0, 0.5, 2.0, torch.nan])
    top_k = torch.tensor([0, 9, 1, 50])
    for filters in ((9, top_p), (top_k, 0.5), (top_k, top_p)):
        expected = reference.draw(logits, uniform, call.scale, *filters)
        assert torch.equal(_triton.sample(logits, uniform, call.scale, *filters), expected)


@settings(max_examples=25)
@given(draws(widest=200))
def test_any_call(call: Draw) -> None:
    check(call)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tokens_stay(rows: str, kind: str) -> None:
    # Each kind gets a few of the filters, because the interpreter takes a second for one.
    first = list(KINDS).index(kind)
    for i in range(first, first + (3 if rows == "whole" else 1)):
        vocabulary, (part, top_p) = 66 + i % 8, FILTERS[i % len(FILTERS)]
        top_k = 1 if part is ONE else int(part * vocabulary)
        call = Draw(vocabulary, 1, 1, kind, 0.25, DTYPES[(i + first // 4) % 4], top_k, top_p, 1.25, seed=i)
        logits = call.logits()
        weights = reference.sample_weights(logits, top_k, top_p, call.scale)
        sampled = functools.partial(_triton.sample, scale=call.scale, top_k=top_k, top_p=top_p)
        assert_same_choice(sampled, logits, weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_samplers_row(dtype: torch.dtype) -> None:
    check(Draw(4096, 1, 2, "normal", 0.0, dtype, 900, 0.96))


@pytest.mark.parametrize("vocabulary", [*range(1, 10), 15, 16, 17, 63, 64, 65, 127, 129])
def test_every_vocabulary(vocabulary: int) -> None:
    check(Draw(vocabulary, 1, 5, "normal", 0.0, DTYPES[vocabulary % 4], (vocabulary + 1) // 2, 0.9))


def test_a_row_wider_than_registers() -> None:
    assert launch.sample_tile(torch.float32, 9000)[0][-2:] == (2048, 10240)
    check(Draw(9000, 1, 1, "normal", 0.0, torch.float16, 4000, 0.9))


def test_two_classes() -> None:
    """A bitwise model draws from two classes; a program then holds hundreds of rows."""
    logits, uniform = normal(2, 300, 2), torch.rand(2, 300)
    expected = reference.sample(logits, uniform, 2, 0.97)
    assert torch.equal(_triton.sample(logits, uniform, 1.0, 2, 0.97), expected)
    assert launch.sample_tile(torch.float32, 2)[1] == 256


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5)])
def test_no_rows(shape: tuple[int, int, int]) -> None:
    assert _triton.sample(torch.randn(shape), torch.rand(shape[:2]), 1.0, 1, 0.5).shape == shape[:2]


def test_every_layout() -> None:
    for i, layout in enumerate(LAYOUTS):
        call = Draw(21, 3, 2, dtype=DTYPES[i % 4], top_k=9, top_p=0.8, seed=i)
        logits, uniform = LAYOUTS[layout](call.logits()), call.uniform().mT.contiguous().mT
        tokens = _triton.sample(logits, uniform, call.scale, call.top_k, call.top_p)
        assert torch.equal(tokens, expected_tokens(call, logits, uniform)), layout


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_scale_for_each_sample(dtype: torch.dtype) -> None:
    logits, uniform = normal(3, 4, 20), torch.rand(3, 4)
    scales = torch.tensor([0.25, 9.0, 1.0, 9.0, 3.0], dtype=dtype)[::2]
    for scale in (scales, scales[1], scales[0].item()):
        expected = reference.sample_tempered(logits, uniform, scale, 9, 0.9)
        assert torch.equal(_triton.sample(logits, uniform, scale, 9, 0.9), expected)


def test_uniforms_outside_count_as_the_nearest_inside() -> None:
    uniform = torch.tensor([[-1.0, -INF, math.nan, 1.0, 7.0, INF]])
    assert _triton.sample(torch.zeros(1, 6, 4), uniform, 1.0, 0, 0.0).tolist() == [[0, 0, 0, 3, 3, 3]]


def test_a_row_without_an_answer(rows: str) -> None:
    logits, uniform = normal(2, 5, 70), torch.rand(2, 5)
    expected = reference.sample(logits, uniform, 9, 0.9)
    logits[0, 1], logits[0, 2, 69], logits[1, 3, 5], logits[1, 0, 7] = -INF, math.nan, INF, -math.nan
    logits[1, 0, 8:] = -INF
    for where in ((0, 1), (0, 2), (1, 3), (1, 0)):
        expected[where] = -1
    assert torch.equal(_triton.sample(logits, uniform, 1.0, 9, 0.9), expected)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, INF])
def test_a_scale_without_an_answer(scale: float) -> None:
    logits, uniform = normal(2, 2, 9), torch.rand(2, 2)
    expected = reference.sample(logits, uniform)
    assert (_triton.sample(logits, uniform, scale, 0, 0.0) == -1).all()
    expected[1] = -1
    assert torch.equal(_triton.sample(logits, uniform, torch.tensor([1.0, scale]), 0, 0.0), expected)


@pytest.mark.unpoisoned
@pytest.mark.parametrize("strides", [(2**30 + 64, 64, 1), (64, 2**30 + 4096, 1), (16, 64, 2**30 + 4096)])
def test_elements_past_two_to_the_31(rows: str, strides: tuple[int, int, int], tmp_path: Path) -> None:
    values = normal(4, 4, 5)
    count = sum((n - 1) * stride for n, stride in zip(values.shape, strides, strict=True)) + 1
    with (tmp_path / "logits").open("wb") as file:
        file.truncate(4 * count)  # a sparse file: only the pages that are touched exist
    far = torch.from_file(str(tmp_path / "logits"), shared=True, size=count).as_strided(values.shape, strides)
    uniform = torch.rand(4, 4)
    tokens = _triton.sample(far.copy_(values), uniform, 1.0, 4, 0.9)
    assert torch.equal(tokens, reference.sample(values, uniform, 4, 0.9))


def test_the_operator_comes_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSG_KERNELS_BACKEND", "triton")
    calls: list[tuple[Any, ...]] = []
    kernel = _triton.sample
    monkeypatch.setattr(_triton, "sample", lambda *arguments: calls.append(arguments) or kernel(*arguments))
    logits, uniform = normal(2, 3, 9), torch.rand(2, 3)
    tokens = ssg_kernels.sample(logits, uniform, 4, 0.9)
    assert torch.equal(tokens, kernel(logits, uniform, 1.0, 4, 0.9))
    for count, scale in enumerate((0.5, torch.tensor(0.5)), 2):
        op = torch.ops.ssg._sample_tempered
        tokens = (op.default if isinstance(scale, torch.Tensor) else op.float)(logits, uniform, scale, 4, 0.9)
        assert torch.equal(tokens, kernel(logits, uniform, 0.5, 4, 0.9))
        assert len(calls) == count
    logits[1, 1] = -INF
    assert kernel(logits, uniform, 1.0, 4, 0.9)[1, 1] == -1
    with pytest.raises((ValueError, RuntimeError), match=r"got -inf at \(1, 1\)"):
        ssg_kernels.sample(logits, uniform, 4, 0.9)
