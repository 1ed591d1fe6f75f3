"""The CUDA sampling kernels' own source, run on the host, against the reference: equal tokens, row by row.

Each call runs twice, with the threads of a block in opposite orders, and must give the same tokens.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from support.cuda_on_host import HOST, number, place
from support.draws import INF, KINDS, Draw, assert_same_choice, draws, expected_tokens
from support.strategies import DTYPES
from torch import Tensor

from ssg_kernels import reference


def sample(
    logits: Tensor,
    uniform: Tensor,
    scale: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 0.0,
) -> Tensor:
    batch, tokens, vocabulary = logits.shape
    results = []
    for reverse in (False, True):
        out = torch.full((batch, tokens), -7)
        if out.numel():
            HOST.cuda_sample(
                logits=place(logits),
                uniform=(uniform.data_ptr(), uniform.stride(0), uniform.stride(1)),
                uniform_is_double=uniform.dtype == torch.float64,
                scale=number(scale),
                out=out.data_ptr(),
                dtype=str(logits.dtype).removeprefix("torch."),
                batch=batch,
                tokens=tokens,
                vocabulary=vocabulary,
                top_k=number(top_k if isinstance(top_k, Tensor) else float(top_k)),
                top_p=number(top_p),
                reverse=reverse,
            )
        results.append(out)
    assert torch.equal(*results)
    return results[0]


def test_filters_of_each_sample() -> None:
    for vocabulary in (2, 40, 300):
        call = Draw(vocabulary, 4, 3)
        logits, uniform = call.logits(), call.uniform()
        top_p = torch.tensor([0.0, 0.5, 2.0, torch.nan], dtype=torch.float64)
        top_k = torch.tensor([0, 1, vocabulary // 2, vocabulary + 3])
        for filters in ((0, top_p), (top_k, 0.5), (top_k, top_p)):
            expected = reference.draw(logits, uniform, call.scale, *filters)
            assert torch.equal(sample(logits, uniform, call.scale, *filters), expected)


def check(call: Draw) -> None:
    logits = call.logits()
    for dtype in (torch.float32, torch.float64):
        uniform = call.uniform(dtype)
        tokens = sample(logits, uniform, call.scale, call.top_k, call.top_p)
        assert torch.equal(tokens, expected_tokens(call, logits, uniform))


def check_mask(call: Draw) -> None:
    logits = call.logits()
    weights = reference.sample_weights(logits, call.top_k, call.top_p, call.scale)
    assert_same_choice(lambda x, u: sample(x, u, call.scale, call.top_k, call.top_p), logits, weights)


@given(draws(widest=1500))
def test_any_call(call: Draw) -> None:
    check(call)


@given(draws(widest=40))
def test_the_same_tokens_stay(call: Draw) -> None:
    check_mask(call)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kind_at_a_sampler_s_size(kind: str, dtype: torch.dtype) -> None:
    for top_k, top_p in ((0, 0.0), (900, 0.96), (0, 0.95), (600, 0.0), (1, 0.5), (0, 1.0)):
        check(Draw(4096, 1, 2, kind, 0.25, dtype, top_k, top_p, 1.25, seed=top_k))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_vocabulary(dtype: torch.dtype) -> None:
    for vocabulary in (*range(1, 40), 63, 64, 65, 255, 256, 257, 511, 513, 1025):
        for kind in ("normal", "few_values"):
            check(Draw(vocabulary, 2, 3, kind, 0.0, dtype, (vocabulary + 1) // 2, 0.9, seed=vocabulary))
            check(Draw(vocabulary, 1, 3, kind, 0.0, dtype, 0, 0.7, seed=vocabulary))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_that_shared_memory_cannot_hold(dtype: torch.dtype) -> None:
    for vocabulary, kind in ((20001, "normal"), (40000, "few_values"), (262144, "normal")):
        check(Draw(vocabulary, 1, 1, kind, 0.0, dtype, vocabulary // 3, 0.9, seed=vocabulary))
    check(Draw(5000, 1, 3, "equal", 0.0, dtype, 1, 0.9))


def test_bits() -> None:
    """Two columns, many rows: a thread draws a row, and threads draw several."""
    for top_k, top_p in ((0, 0.0), (2, 0.97), (1, 0.5), (0, 0.6)):
        check(Draw(2, 3, 700, "normal", 0.0, torch.float32, top_k, top_p, 0.125))


@pytest.mark.parametrize("vocabulary", [2, 7, 9, 700])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_without_a_finite_largest_logit_give_minus_one(vocabulary: int, dtype: torch.dtype) -> None:
    logits = Draw(vocabulary, 3, 4, dtype=dtype).logits()
    expected = sample(logits, torch.full((3, 4), 0.5), 1.0, 2, 0.9)
    for i, value in enumerate((math.nan, INF, -math.nan)):
        logits[i, i, i % vocabulary] = value
        expected[i, i] = -1
    logits[2, 3] = -INF
    expected[2, 3] = -1
    logits[0, 3, : vocabulary - 1] = -INF
    expected[0, 3] = vocabulary - 1
    assert torch.equal(sample(logits, torch.full((3, 4), 0.5), 1.0, 2, 0.9), expected)


@pytest.mark.parametrize("vocabulary", [3, 50])
def test_a_scale_per_sample(vocabulary: int) -> None:
    call = Draw(vocabulary, 5, 3, top_p=0.8)
    logits, uniform = call.logits(), call.uniform()
    scale = torch.tensor([0.5, 1.0, 0.0, -1.0, INF])
    tokens = sample(logits, uniform, scale, 0, 0.8)
    assert torch.equal(tokens[:2], reference.sample_tempered(logits[:2], uniform[:2], scale[:2], 0, 0.8))
    assert (tokens[2:] == -1).all()


@pytest.mark.parametrize("vocabulary", [3, 50])
def test_uniforms_outside_count_as_the_nearest_inside(vocabulary: int) -> None:
    call = Draw(vocabulary, 1, 5)
    logits = call.logits()[:, :1].expand(1, 5, vocabulary)
    tokens = sample(logits, torch.tensor([[-1.0, 0.0, math.nan, 1.0, 7.0]]))
    assert tokens[0, 0] == tokens[0, 1] == tokens[0, 2] != tokens[0, 3] == tokens[0, 4]


def test_strided_rows() -> None:
    call = Draw(30, 3, 4, top_k=9, top_p=0.9)
    logits, uniform = call.logits(), call.uniform()
    wide = torch.full((4, 3, 64), math.nan)
    wide[..., 5:35] = logits.transpose(0, 1)
    strided = wide[..., 5:35].transpose(0, 1)
    tokens = sample(strided, uniform.t().contiguous().t(), 1.0, 9, 0.9)
    assert torch.equal(tokens, expected_tokens(call, logits, uniform))
