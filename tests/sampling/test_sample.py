"""Compares `sample` with the reference, and the reference with the softmax, sort and cumsum of the models' samplers."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from hypothesis import given
from support.draws import (
    INF,
    KINDS,
    Draw,
    assert_same_choice,
    chi_square,
    draws,
    edges,
    expected_tokens,
    probabilities,
)
from support.strategies import DTYPES, LAYOUTS, normal
from torch import Tensor

import ssg_kernels
from ssg_kernels import reference


def tempered(logits: Tensor, uniform: Tensor, scale: float | Tensor, *filters: float) -> Tensor:
    packet = torch.ops.ssg._sample_tempered
    op = packet.default if isinstance(scale, Tensor) else packet.float
    return op(logits, uniform, scale, *filters)


def check(call: Draw, logits: Tensor | None = None) -> None:
    logits = call.logits() if logits is None else logits
    before = logits.clone()
    for dtype in (torch.float32, torch.float64):
        uniform = call.uniform(dtype)
        tokens = tempered(logits, uniform, call.scale, call.top_k, call.top_p)
        assert tokens.dtype == torch.int64
        assert tokens.is_contiguous()
        assert torch.equal(tokens, expected_tokens(call, logits, uniform))
    assert torch.equal(logits, before)


def check_mask(call: Draw) -> None:
    logits = call.logits()
    weights = reference.sample_weights(logits, call.top_k, call.top_p, call.scale)
    assert_same_choice(lambda x, u: tempered(x, u, call.scale, call.top_k, call.top_p), logits, weights)


def test_filters_of_each_sample(backend: str) -> None:
    logits, uniform = normal(7, 5, 40), torch.rand(7, 5)
    top_p = torch.tensor([0.0, 0.5, 0.96, 1.0, -1.0, 2.0, torch.nan], dtype=torch.float64)
    within = [
        0.0,
        0.5,
        0.96,
        1.0,
        0.0,
        1.0,
        0.0,
    ]  # numbers outside [0, 1] count as the nearest one inside, NaN as 0
    scale = torch.linspace(0.5, 2, 7)
    op = torch.ops.ssg._sample_tempered
    top_k = torch.tensor([0, 9, 1, 40, -3, 50, 7])
    ks = [0, 9, 1, 40, 0, 40, 7]
    tokens = op.tensors(logits, uniform, scale, top_k, top_p)
    for b, (k, p) in enumerate(zip(ks, within, strict=True)):
        one = slice(b, b + 1)
        assert torch.equal(tokens[one], op.default(logits[one], uniform[one], scale[one], k, p))
        # One number for all samples, of another dtype.
        number = torch.tensor(p, dtype=torch.bfloat16)
        assert torch.equal(
            op.tensors(logits, uniform, scale, torch.tensor(k, dtype=torch.int16), number),
            op.default(logits, uniform, scale, k, number.item()),
        )


@given(draws())
def test_any_call(backend: str, call: Draw) -> None:
    check(call)


@pytest.mark.usefixtures("extension")
@given(draws(widest=300))
def test_the_same_tokens_stay(call: Draw) -> None:
    check_mask(call)


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_tokens_stay_in_a_sampler(kind: str, dtype: torch.dtype) -> None:
    for top_k, top_p in ((900, 0.96), (0, 0.95), (600, 0.0), (1, 0.5), (0, 1.0)):
        check_mask(Draw(4096, 1, 1, kind, 0.25, dtype, top_k, top_p, 1.25))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_vocabulary(backend: str, dtype: torch.dtype) -> None:
    for vocabulary in (*range(1, 70), 127, 128, 129, 255, 256, 257, 513, 4096):
        for kind in ("normal", "few_values"):
            top_k = (vocabulary + 1) // 2
            check(Draw(vocabulary, 1, 5, kind, 0.0, dtype, top_k, 0.9, seed=vocabulary))
            check(Draw(vocabulary, 1, 5, kind, 0.0, dtype, 0, 0.7, seed=vocabulary))


@pytest.mark.parametrize(
    ("vocabulary", "batch", "tokens"), [(262_144, 1, 2), (300_001, 1, 1), (2, 3, 4000), (3, 2000, 1)]
)
def test_extreme_shapes(backend: str, vocabulary: int, batch: int, tokens: int) -> None:
    for dtype, kind in ((torch.float32, "normal"), (torch.bfloat16, "normal"), (torch.float32, "equal")):
        check(Draw(vocabulary, batch, tokens, kind, 0.0, dtype, vocabulary // 2, 0.9))


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (0, 0, 1)])
def test_no_rows(backend: str, shape: tuple[int, int, int]) -> None:
    tokens = ssg_kernels.sample(torch.randn(shape), torch.rand(shape[:2]), 1, 0.5)
    assert tokens.shape == shape[:2]
    assert tokens.dtype == torch.int64


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_layout(backend: str, layout: str, dtype: torch.dtype) -> None:
    for vocabulary in (2, 37):
        call = Draw(vocabulary, 3, 4, dtype=dtype, top_k=vocabulary // 2, top_p=0.8)
        check(call, LAYOUTS[layout](call.logits()))


def test_strides_of_the_uniforms(backend: str) -> None:
    call = Draw(11, 3, 4)
    uniform = torch.rand(3, 4)
    for view in (uniform.mT.contiguous().mT, uniform[:1].expand(3, 4), uniform.repeat(1, 2)[:, ::2]):
        tokens = ssg_kernels.sample(call.logits(), view)
        assert torch.equal(tokens, ssg_kernels.sample(call.logits(), view.contiguous()))


def test_a_scale_for_each_sample(backend: str) -> None:
    logits, uniform = normal(3, 50, 20), torch.rand(3, 50)
    scales = torch.tensor([0.25, 1.0, 3.0])
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        tokens = tempered(logits, uniform, scales.to(dtype), 9, 0.9)
        for b in range(3):
            one = tempered(logits[b : b + 1], uniform[b : b + 1], scales[b].item(), 9, 0.9)
            assert torch.equal(tokens[b : b + 1], one)
            assert torch.equal(one, tempered(logits[b : b + 1], uniform[b : b + 1], scales[b], 9, 0.9))


def test_sample_has_temperature_one(backend: str) -> None:
    logits, uniform = normal(2, 60, 33), torch.rand(2, 60)
    assert torch.equal(ssg_kernels.sample(logits, uniform), tempered(logits, uniform, 1.0, 0, 0.0))
    assert torch.equal(
        ssg_kernels.sample(logits, uniform, top_k=7, top_p=0.8), tempered(logits, uniform, 1.0, 7, 0.8)
    )
    assert torch.equal(torch.ops.ssg.sample(logits, uniform), ssg_kernels.sample(logits, uniform))


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("shape", [(2, 300, 2), (2, 37, 1000), (1, 1, 5000)])
def test_the_same_tokens_on_any_number_of_threads(shape: tuple[int, int, int]) -> None:
    logits, uniform = normal(*shape), torch.rand(shape[:2])
    one = ssg_kernels.sample(logits, uniform, shape[2] // 2, 0.9)
    for threads in (2, 3, 5):
        torch.set_num_threads(threads)
        assert torch.equal(ssg_kernels.sample(logits, uniform, shape[2] // 2, 0.9), one)


# Examples by hand


def weights_of(row: list[float], top_k: int = 0, top_p: float = 0.0) -> list[float]:
    """The weights of one row, relative to that of the largest logit."""
    weights = reference.sample_weights(torch.tensor([[row]]), top_k, top_p)
    return (weights / 2**39).flatten().tolist()


def test_weights_by_hand() -> None:
    log = math.log
    assert weights_of([log(8), log(4), log(2)]) == pytest.approx([1, 0.5, 0.25], abs=1e-7)
    assert weights_of([0.0, -27.0, -27.04, -INF]) == [1.0, 2**-39, 0.0, 0.0]
    # Ties with the k-th largest value stay.
    assert weights_of([1, 3, 1, 3, 1], top_k=1) == [0, 1, 0, 1, 0]
    assert weights_of([1, 2, 1, 3, 1], top_k=3) == pytest.approx([math.exp(x - 3) for x in (1, 2, 1, 3, 1)])
    # In ascending order the chances are 1/8, 2/8, 5/8 and their running sums 1/8, 3/8, 1. At most 1 - p goes.
    row = [log(5), log(1), log(2)]
    for top_p, kept in ((0.9, 3), (0.87, 2), (0.63, 2), (0.62, 1), (0.01, 1)):
        assert sum(w > 0 for w in weights_of(row, top_p=top_p)) == kept
    # Top-k leaves 2/7 and 5/7: the chances are renormalised before top-p.
    assert sum(w > 0 for w in weights_of(row, top_k=2, top_p=0.72)) == 2
    assert sum(w > 0 for w in weights_of(row, top_k=2, top_p=0.71)) == 1
    # Equal logits go in the order of the vocabulary, and a token goes whose running weight equals 1 - p.
    assert weights_of([0.0] * 4, top_p=0.5) == [0, 0, 1, 1]
    assert weights_of([0.0] * 4, top_p=0.49) == [0, 0, 1, 1]
    assert weights_of([0.0] * 4, top_p=0.25) == [0, 0, 0, 1]
    assert weights_of([0.0] * 4, top_p=1e-17) == [0, 0, 0, 1]
    assert weights_of([0.0, -0.0, 0.0, -0.0], top_p=0.5) == [0, 0, 1, 1]


def test_tokens_by_hand(backend: str) -> None:
    """With four equal logits the uniform alone decides. An edge belongs to the token after it."""
    uniform = torch.tensor([[0.0, 0.2, 0.25, 0.49, 0.5, 0.75, 0.999, 1 - 2**-24]])
    logits = torch.zeros(1, 8, 4)
    assert ssg_kernels.sample(logits, uniform).tolist() == [[0, 0, 1, 1, 2, 3, 3, 3]]
    assert ssg_kernels.sample(logits, uniform, top_p=0.5).tolist() == [[2, 2, 2, 2, 3, 3, 3, 3]]
    logits[..., 1:3] = -INF
    assert ssg_kernels.sample(logits, uniform).tolist() == [[0, 0, 0, 0, 3, 3, 3, 3]]
    assert ssg_kernels.sample(logits, uniform, top_k=4).tolist() == [[0, 0, 0, 0, 3, 3, 3, 3]]


def test_uniforms_outside_count_as_the_nearest_inside(backend: str) -> None:
    uniform = torch.tensor([[-1.0, -INF, math.nan, 1.0, 7.0, INF]])
    logits = torch.zeros(1, 6, 4)
    for dtype in (torch.float32, torch.float64):
        assert ssg_kernels.sample(logits, uniform.to(dtype)).tolist() == [[0, 0, 0, 3, 3, 3]]


@pytest.mark.parametrize("top_p", [0.0, 0.3, 1.0])
def test_top_k_of_one_is_the_largest(backend: str, top_p: float) -> None:
    logits, uniform = normal(2, 50, 99), torch.rand(2, 50)
    assert torch.equal(ssg_kernels.sample(logits, uniform, 1, top_p), logits.argmax(-1))
    assert torch.equal(ssg_kernels.sample(logits, uniform, 0, 1e-9), logits.argmax(-1))


# The function of the models' samplers


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("top_k", "top_p"), [(900, 0.96), (600, 0.0), (0, 0.95), (2, 0.97), (0, 0.0)])
def test_reference_keeps_what_the_samplers_keep(dtype: torch.dtype, top_k: int, top_p: float) -> None:
    logits = normal(2, 40, 4096, dtype=dtype, seed=top_k)
    weights = reference.sample_weights(logits, top_k, top_p)
    chances = weights.double() / weights.sum(-1, keepdim=True)
    exact, _ = probabilities(logits.double(), top_k, top_p)
    # Where two masks are compared, tokens that weigh about a unit of the weights or less do not count.
    met = exact > 1e-11
    assert torch.equal((weights > 0)[met], (exact > 0)[met])
    assert not weights[exact == 0].any()
    # Each weight is off by less than 2**-23.5 of itself, and by one unit.
    assert (chances - exact).abs().max() < 2.0**-23.5
    # Samplers compute in float32. Tokens whose running sum is within rounding of the limit do not count.
    single, distance = probabilities(logits.float(), top_k, top_p)
    clear = (distance > 1e-5) & met
    assert clear.sum() > 0.9 * met.sum()
    assert torch.equal((weights > 0)[clear], (single > 0)[clear])


@pytest.mark.parametrize(("top_k", "top_p", "scale"), [(0, 0.0, 1.0), (30, 0.9, 1.0), (0, 0.7, 0.5)])
def test_frequencies(backend: str, top_k: int, top_p: float, scale: float) -> None:
    row = torch.randn(64)
    count = 100_000
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(1, count, generator=generator)
    tokens = tempered(row.expand(1, count, 64), uniform, scale, top_k, top_p)
    weights = reference.sample_weights(row[None, None], top_k, top_p, scale).flatten()
    statistic, freedom = chi_square(torch.bincount(tokens.flatten(), minlength=64), weights)
    assert scipy.stats.chi2.sf(statistic, freedom) > 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
def test_frequencies_of_two_classes(backend: str, dtype: torch.dtype) -> None:
    """A bitwise model draws from two classes: V = 2."""
    logits = torch.tensor([0.5, -0.25]).to(dtype).expand(1, 50_000, 2)
    uniform = torch.rand(1, 50_000, generator=torch.Generator().manual_seed(1))
    ones = ssg_kernels.sample(logits, uniform).sum().item()
    chance = logits[0, 0].double().softmax(0)[1].item()
    assert scipy.stats.binomtest(ones, 50_000, chance).pvalue > 1e-4


def test_all_uniforms_of_a_grid(backend: str) -> None:
    """Each token is chosen on a part of [0, 1) as large as its chance, in the order of the vocabulary."""
    logits, steps = normal(1, 1, 50), 4096
    uniform = (torch.arange(steps) / steps)[None]
    tokens = ssg_kernels.sample(logits.expand(1, steps, 50), uniform, 20, 0.95)[0]
    assert (tokens.diff() >= 0).all()
    chances, _ = probabilities(logits[0, 0].double(), 20, 0.95)
    counts = torch.bincount(tokens, minlength=50)
    assert (counts - steps * chances).abs().max() <= 1
    assert (
        edges(reference.sample_weights(logits, 20, 0.95).flatten())[1].unique().numel() == (chances > 0).sum()
    )


# Rows that have no answer


@pytest.mark.parametrize(
    ("values", "largest"),
    [
        ((0.0, math.nan), "nan"),
        ((-math.nan, 0.0), "nan"),
        ((math.nan, -INF), "nan"),
        ((math.nan, INF), "nan"),
        ((math.nan, math.nan), "nan"),
        ((-INF, -INF), "-inf"),
        ((INF, 0.0), "inf"),
        ((INF, -INF), "inf"),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [2, 1500])
def test_a_row_without_an_answer(
    backend: str, values: tuple[float, float], largest: str, dtype: torch.dtype, vocabulary: int
) -> None:
    logits = torch.zeros(3, 40, vocabulary, dtype=dtype)
    row = torch.tensor(values[1], dtype=dtype).expand(vocabulary).clone()
    row[vocabulary // 2] = values[0]
    if values == (-math.nan, 0.0):
        row[vocabulary // 2] = torch.tensor(math.nan, dtype=dtype).neg()
    logits[1, 7] = logits[1, 9] = logits[2, 0] = row
    text = rf"sample: logits must have a finite largest value in every row, got {largest} at \(1, 7\)"
    for top_k, top_p in ((0, 0.0), (1, 0.5)):
        with pytest.raises((ValueError, RuntimeError), match=text):
            ssg_kernels.sample(logits, torch.rand(3, 40), top_k, top_p)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, INF])
def test_a_scale_without_an_answer(backend: str, scale: float) -> None:
    logits, uniform = normal(2, 3, 4), torch.rand(2, 3)
    for value in (scale, torch.tensor(scale), torch.tensor([1.0, scale])):
        with pytest.raises(
            (ValueError, RuntimeError), match=f"scale must be positive and finite, got {scale:g}"
        ):
            tempered(logits, uniform, value)


def test_no_answer_on_a_gpu() -> None:
    """A row without an answer gives -1 and leaves other rows alone. The CPU raises only after this draw."""
    logits = torch.zeros(1, 4, 3)
    logits[0, 0], logits[0, 1, 1], logits[0, 2, 2] = -INF, math.nan, INF
    assert reference.draw(logits, torch.rand(1, 4), 1.0, 0, 0.0).tolist()[0][:3] == [-1, -1, -1]
    assert reference.draw(logits, torch.rand(1, 4), 1.0, 0, 0.0).tolist()[0][3] >= 0
