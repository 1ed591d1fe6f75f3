"""The guidance kernels that nvcc made, executed: whole small problems, and chosen blocks of the samplers' steps."""

from __future__ import annotations

import math

import pytest
import torch
from support.bounds import assert_accurate
from support.cuda_on_host import HOST, VARIANTS, expected_of
from support.executed import check, guided, require_nvcc
from support.strategies import DTYPES, Call, normal

from bench.ptx import cuda
from bench.ptx.case import Case

require_nvcc()

INF = math.inf
HALF = (torch.bfloat16, torch.float16)
SMALL = ((9, 8), (7, 6))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        (name, dtype)
        for name in VARIANTS
        for dtype in DTYPES
        if dtype != torch.float64 or name in ("dense", "fma 2", "fma 1", "direct")
    ],
)
def test_every_kernel(name: str, dtype: torch.dtype) -> None:
    """Each with and without cfg, of whole strips and with a tail; odd rows are not aligned."""
    is_odd = list(VARIANTS).index(name) % 2 == 1
    check(Call(*SMALL, 2, 37, dtype, is_cfg=is_odd, kinds=("vector", "scalar", "float")), variant=name)
    check(Call(*SMALL, 1, 72, dtype, is_cfg=not is_odd), variant=name)


@pytest.mark.parametrize(
    "call",
    [
        Call((7, 9), (4, 9), 1, 24, prior="spatial"),
        Call((10, 10), (4, 4), 1, 17, interpolation="bicubic", rescale=True),
        Call((6, 6), (5, 5), 1, 24, interpolation="nearest"),
        Call((1, 12), (1, 9), 2, 24, torch.bfloat16),
        Call((1, 1), (1, 1), 3, 33),
        Call((2, 2), (1, 1), 1, 200, torch.float16, is_cfg=True),
    ],
    ids=str,
)
def test_priors_and_shapes(call: Call) -> None:
    check(call)


@pytest.mark.parametrize("layout", ["offset", "every_other_token", "vocabulary_slice", "tokens_first"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts(layout: str, dtype: torch.dtype) -> None:
    check(Call(*SMALL, 2, 32, dtype, layout=layout, prev_layout=layout), variant="mma 2")


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", ["dense", "fma 2", "mma 2"])
def test_the_prior_alone(name: str, transposed: bool) -> None:
    call = Call((10, 10), (8, 8), 2, 19)
    operator = torch.from_numpy(HOST.dense_operator((10, 10), (8, 8), "dse", "bilinear", False, transposed))
    x = normal(2, operator.shape[1], 19, dtype=torch.float32, seed=1)
    actual = guided(call, None, x, torch.tensor([0.75, -1.5]), variant=name, transposed=transposed)
    assert_accurate(actual, torch.tensor([0.75, -1.5]).double()[:, None, None] * (operator @ x.double()))


@pytest.mark.parametrize("is_cfg", [False, True])
@pytest.mark.parametrize("name", ["dense", "fma 2", "mma 4", "mma 2", "direct"])
def test_nan_and_infinities_stay_in_their_column(name: str, is_cfg: bool) -> None:
    call = Call(*SMALL, 2, 41, is_cfg=is_cfg)
    strengths = (0.5, 1.5, 0.5)[: 3 if is_cfg else 1]
    logits, prev_logits = call.logits(), call.prev_logits()
    expected = guided(call, logits, prev_logits, *strengths, variant=name)
    clean = prev_logits.clone()
    bad = torch.zeros(2, 41, dtype=torch.bool)
    for i, value in enumerate((math.nan, INF, -INF)):
        for column in (3 * i, 3 * i + 1, 17 + 5 * i, 40 - i):
            prev_logits[i % 2, (11 * i + column) % 42, column] = value
            bad[i % 2, column] = True
    actual = guided(call, logits, prev_logits, *strengths, variant=name)
    rows = bad[:, None].expand(actual.shape)
    if "mma" in name:  # computes such a strip another way, with other last bits
        assert_accurate(actual[~rows], expected_of(call, logits, clean, *strengths)[~rows])
    else:
        assert torch.equal(actual[~rows], expected[~rows])
    assert not actual.masked_select(rows).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("name", ["dense", "fma 1", "mma 2"])
def test_minus_infinity_stays(name: str, dtype: torch.dtype) -> None:
    call = Call((6, 7), (5, 4), 2, 37, dtype, is_cfg=True)
    logits, prev_logits = call.logits(), call.prev_logits()
    logits[:2, 3::5, 2::7] = -INF
    prev_logits[0, 3, 5] = math.nan
    masked = logits[:2] == -INF
    actual = guided(call, logits, prev_logits, -1.0, 0.0, 2.0, variant=name)
    assert (actual[masked] == -INF).all()
    assert (actual[~masked] != -INF).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["dense", "fma 1", "mma 2"])
def test_in_place(name: str, dtype: torch.dtype) -> None:
    call = Call((10, 9), (7, 8), 2, 44, dtype, is_cfg=True)
    logits, prev_logits, strengths = call.logits(), call.prev_logits(), call.strengths()
    expected = guided(call, logits, prev_logits, *strengths, variant=name)
    guided(call, logits, prev_logits, *strengths, variant=name, out=logits[:2])
    assert torch.equal(logits[:2], expected)


@pytest.mark.parametrize(
    ("size", "prev_size", "batch", "vocabulary", "dtype", "is_cfg"),
    [
        (16, 13, 64, 4096, torch.float32, False),
        (16, 13, 64, 4096, torch.bfloat16, True),
        (16, 13, 64, 4097, torch.float32, False),
        (32, 24, 16, 4096, torch.float32, False),
        (32, 24, 16, 4096, torch.float16, False),
        (64, 48, 4, 4096, torch.bfloat16, False),
    ],
)
def test_a_block_of_a_real_step(
    size: int, prev_size: int, batch: int, vocabulary: int, dtype: torch.dtype, is_cfg: bool
) -> None:
    """The last strip of columns of a sample, as the whole step is planned."""
    call = Call((size, size), (prev_size, prev_size), 1, vocabulary, dtype, is_cfg=is_cfg)
    halves = 2 if is_cfg else 1
    plan = cuda.plan(Case(call.size, call.prev_size, batch, vocabulary, dtype, is_cfg))
    assert plan.made_for == prev_size
    first = (vocabulary - 1) // plan.columns * plan.columns
    width = vocabulary - first
    logits, prev_logits, out = (
        torch.empty(1, side * side, vocabulary, dtype=dtype)[..., first:] for side in (size, prev_size, size)
    )
    for seed, x in enumerate((logits, prev_logits)):
        x[:] = normal(1, x.shape[1], width, dtype=dtype, seed=seed)
    logits, prev_logits = (x.expand(halves, -1, -1) for x in (logits, prev_logits))
    strengths = (0.5, 1.5, 0.75)[: 3 if is_cfg else 1]
    out[:] = math.nan
    cuda.guided(
        logits, prev_logits, out, strengths, sources=halves, choose=lambda made: plan.with_blocks(plan.splits),
        size=call.size, prev_size=call.prev_size,
    )  # fmt: skip
    assert_accurate(out, expected_of(call, logits, prev_logits, *strengths))
