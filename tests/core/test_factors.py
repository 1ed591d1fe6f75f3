"""The C++ factors against the literal reference applied to unit vectors."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.fft import dct, idct
from support.packed import load_host
from support.strategies import INTERPOLATIONS, PRIORS

from bench import schedules
from ssg_kernels import reference

host = load_host()

Matrix = NDArray[np.float64]
Size = tuple[int, int]
EXACT = 1e-12
LARGEST = 64


@pytest.fixture(autouse=True)
def _cached_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference builds its matrices anew in each of the tens of thousands of calls."""
    for name in ("dct_matrix", "interpolation_weights"):
        monkeypatch.setattr(reference, name, cache(getattr(reference, name)))


def operator(size: Size, prev_size: Size, *options: object) -> Matrix:
    """The reference's prior as an L x L' matrix: one unit vector per vocabulary column."""
    unit = torch.eye(prev_size[0] * prev_size[1], dtype=torch.float64)
    return reference.dse_prior(unit[None], size, prev_size, *options)[0].numpy()


def on_axis(n_from: int, n_to: int, *options: object) -> Matrix:
    """The reference on a grid of one row, where the operator is the sum of the axis' factors."""
    return operator((1, n_to), (1, n_from), *options)


@cache
def spliced(n_from: int, n_to: int, rescale: bool) -> Matrix:
    return on_axis(n_from, n_to, "dse_zero_pad", "bilinear", rescale)


def assert_close(actual: Matrix, expected: Matrix) -> None:
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= EXACT


def assert_axis(n_from: int, n_to: int, interpolation: str) -> None:
    interpolated = on_axis(n_from, n_to, "spatial", interpolation)
    for rescale in (False, True):
        u, b, g = host.axis_factors(n_from, n_to, interpolation, rescale)
        assert_close(u, interpolated)
        assert_close(b, spliced(n_from, n_to, rescale))
        assert_close(u + b - g, on_axis(n_from, n_to, "dse", interpolation, rescale))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_axis_up_to_64(interpolation: str) -> None:
    for n_to in range(1, LARGEST + 1):
        for n_from in range(1, n_to + 1):
            assert_axis(n_from, n_to, interpolation)


def longer_axes() -> list[tuple[int, int]]:
    """The axes of the samplers' schedules that reach beyond 64."""
    axes = {axis for prev, size in schedules.every_step() for axis in zip(prev, size, strict=True)}
    return sorted(axis for axis in axes if axis[1] > LARGEST)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_longer_axes_of_schedules(interpolation: str) -> None:
    axes = longer_axes()
    assert (90, 111) in axes
    for n_from, n_to in axes:
        assert_axis(n_from, n_to, interpolation)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_step_of_schedules(interpolation: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for prev_size, size in schedules.every_step():
        x = torch.randn(1, prev_size[0] * prev_size[1], 2, dtype=torch.float64, generator=generator)
        maps = x[0].numpy().reshape(*prev_size, -1)
        for prior, rescale in (("dse", False), ("dse", True), ("dse_zero_pad", True), ("spatial", False)):
            options = (prior, interpolation, rescale)
            expected = reference.dse_prior(x, size, prev_size, *options)[0].numpy().reshape(*size, -1)
            # h @ maps @ w^T per vocabulary column
            actual = sum(
                np.tensordot(np.tensordot(h, maps, 1), w, (1, 1)).swapaxes(1, 2)
                for h, w in host.prior_terms(size, prev_size, *options)
            )
            assert np.abs(actual - expected).max() <= EXACT * np.abs(expected).max(), (
                prev_size,
                size,
                options,
            )


SMALL = [
    ((1, 1), (1, 1)),
    ((1, 1), (2, 2)),
    ((2, 2), (3, 2)),
    ((3, 2), (6, 4)),
    ((4, 5), (4, 7)),
    ((1, 6), (5, 9)),
]


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(("prev_size", "size"), SMALL)
def test_dense_operator(size: Size, prev_size: Size, prior: str, interpolation: str, rescale: bool) -> None:
    options = (prior, interpolation, rescale)
    expected = operator(size, prev_size, *options)
    assert_close(host.dense_operator(size, prev_size, *options), expected)
    assert_close(host.dense_operator(size, prev_size, *options, transposed=True), expected.T)


@pytest.mark.parametrize(("prev_size", "size"), SMALL)
def test_transposed_terms(size: Size, prev_size: Size) -> None:
    forward = host.prior_terms(size, prev_size)
    transposed = host.prior_terms(size, prev_size, transposed=True)
    for (h, w), (h_t, w_t) in zip(forward, transposed, strict=True):
        np.testing.assert_array_equal(h_t, h.T)
        np.testing.assert_array_equal(w_t, w.T)


@pytest.mark.parametrize(("n_from", "n_to"), [(1, 1000), (2, 2047), (1024, 1025), (999, 1998), (1500, 2048)])
def test_longest_axes(n_from: int, n_to: int) -> None:
    """Against fast transforms, since the reference's matrices would take long."""
    u, b, g = host.axis_factors(n_from, n_to)
    coarse = np.zeros((n_to, n_from))
    coarse[:n_from] = dct(np.eye(n_from), axis=0, norm="ortho")
    assert_close(b, idct(coarse, axis=0, norm="ortho"))
    low = dct(u, axis=0, norm="ortho")
    low[n_from:] = 0
    assert_close(g, idct(low, axis=0, norm="ortho"))


def test_factors_store_what_is_not_zero() -> None:
    for n in (1, 32, 1024, 4096):
        assert host.stored_entries((1, n), (1, n)) == 1 + n
        assert host.stored_entries((n, n), (n, n)) == 2 * n
    for interpolation, taps in (("nearest", 1), ("bilinear", 2), ("bicubic", 4), ("area", 2)):
        assert host.stored_entries((1, 4096), (1, 3000), "spatial", interpolation) <= 1 + taps * 4096
    # One factor: the three terms of an axis are merged where the other axis does not grow.
    assert host.stored_entries((1, 200), (1, 150)) == 1 + 200 * 150


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_equal_sizes_are_the_identity(interpolation: str) -> None:
    for n in range(1, LARGEST + 1):
        for rescale in (False, True):
            for factor in host.axis_factors(n, n, interpolation, rescale):
                np.testing.assert_array_equal(factor, np.eye(n))
    for prior in PRIORS:
        for rescale in (False, True):
            ((h, w),) = host.prior_terms((5, 8), (5, 8), prior, interpolation, rescale)
            np.testing.assert_array_equal(h, np.eye(5))
            np.testing.assert_array_equal(w, np.eye(8))


def reversed_both(m: Matrix) -> Matrix:
    return m[::-1, ::-1]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_symmetry(interpolation: str) -> None:
    """J M J = M for every factor but those of nearest where N is no multiple of n."""
    short = [(n_from, n_to) for n_to in range(1, LARGEST + 1) for n_from in range(1, n_to + 1)]
    for n_from, n_to in [*short, *longer_axes()]:
        u, b, g = host.axis_factors(n_from, n_to, interpolation)
        assert_close(b, reversed_both(b))
        assert host.is_symmetric(b)
        symmetric = interpolation != "nearest" or n_to % n_from == 0
        assert host.is_symmetric(u) == symmetric, (n_from, n_to)
        if symmetric:
            assert_close(u, reversed_both(u))
            assert_close(g, reversed_both(g))
            assert host.is_symmetric(g), (n_from, n_to)


def test_is_symmetric_sees_one_wrong_entry() -> None:
    _, b, _ = host.axis_factors(13, 16)
    b[3, 5] += 1e-9
    assert not host.is_symmetric(b)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: host.axis_factors(4, 3), "n_from must not exceed n_to"),
        (lambda: host.axis_factors(0, 3), "n_from must be positive, got 0"),
        (lambda: host.interpolation_matrix(3, 0), "n_to must be positive, got 0"),
        (
            lambda: host.interpolation_matrix(3, 4, "cubic"),
            "interpolation must be one of 'nearest', 'bilinear', 'bicubic', 'area', got 'cubic'",
        ),
        (
            lambda: host.prior_terms((2, 2), (1, 1), "none"),
            "prior must be one of 'dse', 'dse_zero_pad', 'spatial', got 'none'",
        ),
        (lambda: host.prior_terms((2, 2), (3, 1)), "prev_size must not exceed size"),
        (lambda: host.prior_terms((2, 2), (0, 1)), "prev_size must be positive"),
        (lambda: host.prior_terms((2**15, 2**16), (1, 1)), r"size must have at most 2\*\*30 tokens"),
        (lambda: host.prior_terms((2**62, 2**62), (1, 1)), r"size must have at most 2\*\*30 tokens"),
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()
