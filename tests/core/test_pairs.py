"""The CPU kernel in float64 against the factors of both axes: every pair of sides up to 64, and every sampler's step.

`test_factors.py` compares the factors of the same pairs with the reference.
"""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.packed import load_host
from support.strategies import INTERPOLATIONS, PRIORS

from bench import schedules

host = load_host()
pytestmark = pytest.mark.usefixtures("extension")

Matrix = NDArray[np.float64]
Side = tuple[int, int]  # before and after

PAIRS: list[Side] = [(n, m) for m in range(2, 65) for n in range(1, m)]
COLUMNS = 3
EXACT = 1e-12  # of the largest value
# Half of the pairs stand along both axes, the others beside some other pair. A prior that is a single term has few
# forms: it gets one pair in eight.
OTHER_AXES = (1, 977)
PRIORS_IN_TURN = ("dse",) * 6 + tuple(PRIORS[1:])


@cache
def factors(n: int, m: int, interpolation: str, rescale: bool) -> tuple[Matrix, Matrix, Matrix]:
    return host.axis_factors(n, m, interpolation, rescale)


def along_both(h: Matrix, w: Matrix, x: Matrix) -> Matrix:
    return np.matmul(w, np.tensordot(h, x, 1))


def expected_prior(
    h: Side, w: Side, prior: str, interpolation: str, rescale: bool, transposed: bool, x: Matrix
) -> Matrix:
    of_h, of_w = (
        [m.T if transposed else m for m in factors(*side, interpolation, rescale)] for side in (h, w)
    )
    u, b, g = (along_both(one, other, x) for one, other in zip(of_h, of_w, strict=True))
    return {"dse": u + b - g, "dse_zero_pad": b, "spatial": u}[prior]


def assert_kernel(
    h: Side, w: Side, prior: str, interpolation: str, rescale: bool, transposed: bool, x: Matrix
) -> None:
    rows, columns = (h[1], w[1]) if transposed else (h[0], w[0])
    given = np.ascontiguousarray(x[:rows, :columns])
    expected = expected_prior(h, w, prior, interpolation, rescale, transposed, given)
    actual = torch.ops.ssg._prior_linear(
        torch.from_numpy(given).reshape(1, -1, COLUMNS),
        torch.ones((), dtype=torch.float64),
        (h[1], w[1]),
        (h[0], w[0]),
        prior,
        interpolation,
        rescale,
        transposed,
    )
    error = np.abs(actual.numpy().reshape(expected.shape) - expected).max()
    what = (h, w, prior, interpolation, rescale, transposed)
    assert error <= EXACT * np.abs(expected).max(), f"{what} is off by {error}"


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_pair_up_to_64(interpolation: str, transposed: bool) -> None:
    x = np.random.default_rng(0).standard_normal((64, 64, COLUMNS))
    priors, rescales = itertools.cycle(PRIORS_IN_TURN), itertools.cycle((False, False, True))
    for i, h in enumerate(PAIRS):
        w = PAIRS[i * OTHER_AXES[(i + h[0]) % 2] % len(PAIRS)]
        assert_kernel(h, w, next(priors), interpolation, next(rescales), transposed, x)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_step_of_the_samplers(interpolation: str, transposed: bool) -> None:
    steps = schedules.every_step()
    longest = max(max(size) for _, size in steps)
    x = np.random.default_rng(0).standard_normal((longest, longest, COLUMNS))
    for prev_size, size in steps:
        h, w = zip(prev_size, size, strict=True)
        assert_kernel(h, w, "dse", interpolation, False, transposed, x)
