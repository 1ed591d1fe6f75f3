"""Compares the reference with transforms and interpolation that others wrote, and with cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.bounds import assert_accurate
from support.strategies import INTERPOLATIONS, PRIORS, Call, calls, normal, sides
from torch import Tensor
from torch.nn import functional as F

from bench.schedules import every_step
from ssg_kernels import reference

INF = math.inf


def upsampled(maps: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    if interpolation == "nearest":
        # Computed by definition, because F.interpolate rounds some indices wrongly, even in float64.
        rows, columns = ([i * n // m for i in range(m)] for n, m in zip(maps.shape[-2:], size, strict=True))
        return maps[..., rows, :][..., columns]
    corners = {} if interpolation == "area" else {"align_corners": False}
    return F.interpolate(maps, size=size, mode=interpolation, **corners)


def literal_prior(
    prev_logits: Tensor,
    size: tuple[int, int],
    prev_size: tuple[int, int],
    prior: str = "dse",
    interpolation: str = "bilinear",
    rescale: bool = False,
) -> Tensor:
    """Alg. 1 computed with scipy and torch, from (B, L', V) in float64 to (B, L, V)."""
    maps = prev_logits.reshape(-1, *prev_size, prev_logits.shape[2]).permute(0, 3, 1, 2)
    wide = upsampled(maps, size, interpolation)
    if prior != "spatial":
        low = scipy.fft.dctn(maps.numpy(), axes=(2, 3), norm="ortho")
        if rescale:
            low = low * math.sqrt(size[0] * size[1] / (prev_size[0] * prev_size[1]))
        spectrum = (
            scipy.fft.dctn(wide.numpy(), axes=(2, 3), norm="ortho")
            if prior == "dse"
            else np.zeros(wide.shape)
        )
        spectrum[:, :, : prev_size[0], : prev_size[1]] = low
        wide = torch.from_numpy(scipy.fft.idctn(spectrum, axes=(2, 3), norm="ortho"))
    return wide.permute(0, 2, 3, 1).reshape(-1, size[0] * size[1], prev_logits.shape[2])


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1e-12 * max(expected.abs().max().item(), 1.0)


@given(
    sides(40),
    sides(40),
    st.sampled_from(PRIORS),
    st.sampled_from(INTERPOLATIONS),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_prior_is_that_of_scipy_and_interpolate(
    rows: tuple[int, int], columns: tuple[int, int], prior: str, interpolation: str, rescale: bool, seed: int
) -> None:
    (prev_h, h), (prev_w, w) = rows, columns
    prev_logits = normal(2, prev_h * prev_w, 3, dtype=torch.float64, seed=seed)
    arguments = (prev_logits, (h, w), (prev_h, prev_w), prior, interpolation, rescale)
    assert_close(reference.dse_prior(*arguments), literal_prior(*arguments))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_prior_on_every_step_of_the_schedules(interpolation: str) -> None:
    for prev_size, size in every_step():
        prev_logits = normal(1, prev_size[0] * prev_size[1], 2, dtype=torch.float64)
        for rescale in (False, True):
            arguments = (prev_logits, size, prev_size, "dse", interpolation, rescale)
            assert_close(reference.dse_prior(*arguments), literal_prior(*arguments))


@given(calls(largest=12, dtypes=(torch.float64,)))
def test_guided_logits_are_alg_2_on_the_merged_logits(call: Call) -> None:
    logits, prev_logits, strengths = call.logits(), call.prev_logits(), call.strengths()
    function = reference.guided_logits_cfg if call.is_cfg else reference.guided_logits
    actual = function(logits, prev_logits, call.size, call.prev_size, *strengths, *call.options)

    beta, *cfgs = [s.double().reshape(-1, 1, 1) if isinstance(s, Tensor) else s for s in strengths]
    if call.is_cfg:
        (cond, uncond), (prev_cond, prev_uncond) = logits.chunk(2), prev_logits.chunk(2)
        logits = (1 + cfgs[0]) * cond - cfgs[0] * uncond
        prev_logits = (1 + cfgs[1]) * prev_cond - cfgs[1] * prev_uncond
    prior = literal_prior(prev_logits, call.size, call.prev_size, *call.options)
    assert_accurate(actual, logits + beta * (logits - prior), logits, prior)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1)


@pytest.mark.parametrize(
    ("prior", "rescale", "expected"),
    [
        # 1x1 -> 2x2: the only coefficient is the value itself, and the inverse transform gives value / 2 everywhere.
        ("dse", False, 1.5),
        ("dse", True, 3.0),
        ("dse_zero_pad", False, 1.5),
        ("dse_zero_pad", True, 3.0),
        ("spatial", False, 3.0),
        ("spatial", True, 3.0),
    ],
)
def test_one_to_four_tokens(prior: str, rescale: bool, expected: float) -> None:
    actual = reference.dse_prior(column(3.0), (2, 2), (1, 1), prior, "bilinear", rescale)
    assert_close(actual, column(*[expected] * 4))
    guided = reference.guided_logits(
        column(1.0, 2.0, 3.0, 4.0), column(3.0), (2, 2), (1, 1), 0.5, prior, rescale=rescale
    )
    assert_close(guided, column(*[v + 0.5 * (v - expected) for v in (1.0, 2.0, 3.0, 4.0)]))


def test_one_axis_by_hand() -> None:
    # 1x2 -> 1x4. The map (a, b) = (0, 1) becomes 0, 1/4, 3/4, 1 by bilinear interpolation. Its DCT is (a+b)/sqrt2,
    # (a-b)/sqrt2.
    low = ((0 + 1) / math.sqrt(2), (0 - 1) / math.sqrt(2))
    wide = (0.0, 0.25, 0.75, 1.0)
    basis = [
        [math.sqrt((1 if k == 0 else 2) / 4) * math.cos(math.pi * k * (2 * i + 1) / 8) for i in range(4)]
        for k in range(4)
    ]
    spectrum = [sum(c * x for c, x in zip(row, wide, strict=True)) for row in basis]
    spectrum[:2] = low
    expected = [sum(spectrum[k] * basis[k][i] for k in range(4)) for i in range(4)]
    assert_close(reference.dse_prior(column(0.0, 1.0), (1, 4), (1, 2)), column(*expected))
    assert_close(reference.dse_prior(column(0.0, 1.0), (4, 1), (2, 1)), column(*expected))
    assert_close(reference.dse_prior(column(0.0, 1.0), (1, 4), (1, 2), "spatial"), column(*wide))


def test_tokens_are_row_major() -> None:
    # "nearest" from 2x3 to 4x3 repeats rows, not columns.
    actual = reference.dse_prior(column(0, 1, 2, 3, 4, 5), (4, 3), (2, 3), "spatial", "nearest")
    assert actual.flatten().tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    ("prev_size", "size", "amplitude"),
    [
        ((13, 13), (16, 16), 0.8125),
        ((1, 1), (2, 2), 0.5),
        ((48, 48), (64, 64), 0.75),
        ((2, 2), (6, 2), math.sqrt(1 / 3)),
    ],
)
def test_a_constant_map_keeps_its_value_only_when_rescaled(
    prev_size: tuple[int, int], size: tuple[int, int], amplitude: float, interpolation: str
) -> None:
    prev_logits = torch.ones(1, prev_size[0] * prev_size[1], 2, dtype=torch.float64)
    ones = torch.ones(1, size[0] * size[1], 2, dtype=torch.float64)
    for prior in ("dse", "dse_zero_pad"):
        actual = reference.dse_prior(prev_logits, size, prev_size, prior, interpolation)
        assert_close(actual, amplitude * ones)
        assert_close(
            reference.dse_prior(prev_logits, size, prev_size, prior, interpolation, rescale=True), ones
        )
    for rescale in (False, True):
        assert_close(
            reference.dse_prior(prev_logits, size, prev_size, "spatial", interpolation, rescale), ones
        )


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("rescale", [False, True])
def test_equal_sizes_make_the_previous_logits_the_prior(
    prior: str, interpolation: str, rescale: bool
) -> None:
    prev_logits = normal(2, 5 * 7, 3, dtype=torch.float64)
    assert_close(reference.dse_prior(prev_logits, (5, 7), (5, 7), prior, interpolation, rescale), prev_logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("n", "m"), [(2, 82), (14, 46), (26, 44), (28, 46), (30, 58), (13, 16), (3, 111), (7, 7)]
)
def test_nearest_takes_exact_indices(n: int, m: int, dtype: torch.dtype) -> None:
    tokens = torch.arange(n, dtype=dtype).reshape(1, n, 1)
    expected = [i * n // m for i in range(m)]
    assert reference.dse_prior(tokens, (m, 1), (n, 1), "spatial", "nearest").flatten().tolist() == expected
    assert reference.dse_prior(tokens, (1, m), (1, n), "spatial", "nearest").flatten().tolist() == expected


def test_cfg_by_hand() -> None:
    # With t = 1.5 every token of this scale merges to 2.5 * 4 - 1.5 * 2 = 7. With t' = 2 the one token of the previous
    # scale merges to 3 * 1 - 2 * 3 = -3, which makes the prior -1.5.
    logits = torch.cat([column(4.0, 4.0, 4.0, 4.0), column(2.0, 2.0, 2.0, 2.0)])
    prev_logits = torch.cat([column(1.0), column(3.0)])
    actual = reference.guided_logits_cfg(logits, prev_logits, (2, 2), (1, 1), 0.5, 1.5, 2.0)
    assert_close(actual, column(*[7 + 0.5 * (7 + 1.5)] * 4))


def test_cfg_takes_a_t_per_sample() -> None:
    logits, prev_logits = normal(4, 9, 3, dtype=torch.float64), normal(4, 4, 3, dtype=torch.float64)
    t, prev_t, beta = (torch.tensor(pair) for pair in ([0.5, 3.0], [0.25, 2.0], [0.125, 1.0]))
    together = reference.guided_logits_cfg(logits, prev_logits, (3, 3), (2, 2), beta, t, prev_t)
    for i in range(2):
        alone = reference.guided_logits_cfg(
            logits[i::2], prev_logits[i::2], (3, 3), (2, 2), beta[i].item(), t[i].item(), prev_t[i].item()
        )
        assert_close(alone, together[i : i + 1])


@pytest.mark.parametrize("beta", [0.5, 0.0, -1.0])
def test_masked_logits_stay_masked(beta: float) -> None:
    logits, prev_logits = normal(2, 9, 4, dtype=torch.float64), normal(2, 4, 4, dtype=torch.float64)
    logits[0, 3, 1] = logits[1, :, 2] = -INF
    prev_logits[1, 0, 2] = torch.nan
    prev_logits[0, 1, 1] = -INF
    guided = reference.guided_logits(logits, prev_logits, (3, 3), (2, 2), beta)
    assert torch.equal(guided == -INF, logits == -INF)

    halves = torch.cat([logits, normal(2, 9, 4, dtype=torch.float64)])
    halves[2:, 0, 0] = -INF
    prev_halves = torch.cat([prev_logits, prev_logits.flip(0)])
    guided = reference.guided_logits_cfg(halves, prev_halves, (3, 3), (2, 2), beta, 1.5, 1.0)
    assert (guided[logits == -INF] == -INF).all()


@pytest.mark.parametrize("bad", [torch.nan, INF, -INF])
@pytest.mark.parametrize("prior", PRIORS)
def test_what_is_not_finite_stays_in_its_column(bad: float, prior: str) -> None:
    logits, prev_logits = normal(2, 9, 4, dtype=torch.float64), normal(2, 4, 4, dtype=torch.float64)
    arguments = ((3, 3), (2, 2), 0.5, prior)
    clean = reference.guided_logits(logits, prev_logits, *arguments)
    prev_logits[1, 2, 3] = bad
    dirty = reference.guided_logits(logits, prev_logits, *arguments)
    assert not dirty[1, :, 3].isfinite().all()
    elsewhere = torch.ones(2, 4, dtype=torch.bool)
    elsewhere[1, 3] = False
    assert torch.equal(dirty.mT[elsewhere], clean.mT[elsewhere])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    logits, prev_logits = normal(2, 256, 16, dtype=dtype), normal(2, 169, 16, dtype=dtype)
    arguments = ((16, 16), (13, 13), 0.75)
    actual = reference.guided_logits(logits, prev_logits, *arguments)
    assert actual.dtype == dtype
    assert_accurate(actual, reference.guided_logits(logits.double(), prev_logits.double(), *arguments))


def test_gradients() -> None:
    logits = normal(2, 9, 2, dtype=torch.float64).requires_grad_()
    prev_logits = normal(2, 4, 2, dtype=torch.float64).requires_grad_()
    beta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    for prior in PRIORS:
        assert torch.autograd.gradcheck(
            lambda x, y, b, prior=prior: reference.guided_logits(x, y, (3, 3), (2, 2), b, prior),
            (logits, prev_logits, beta),
        )
