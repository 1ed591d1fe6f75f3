"""The packed plan: executed literally, it is the dense operator; and its form is the one that costs least."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.packed import Execution, load_host, operator_of
from support.strategies import INTERPOLATIONS, PRIORS, sides

from bench import schedules

host = load_host()

Size = tuple[int, int]
ACCUMULATORS = (6, 12)  # what the kernels' registers hold
# Coefficients are rounded to the plan's dtype, sums are not: of each term no more than its two factors' roundings.
ROUNDING = {"float64": 1e-13, "float32": 1e-6}


@st.composite
def steps(draw: st.DrawFn, largest: int = 12) -> tuple[Size, Size]:
    (prev_h, h), (prev_w, w) = draw(sides(largest)), draw(sides(largest))
    return (h, w), (prev_h, prev_w)


def assert_packed(size: Size, prev_size: Size, *options: Any, accumulators: int, dtype: str) -> None:
    plan = host.plan(size, prev_size, *options, accumulators, dtype)
    expected = host.dense_operator(size, prev_size, *options)
    actual, execution = operator_of(plan, expected.shape[1])
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= ROUNDING[dtype] * np.abs(expected).max()
    assert execution.multiply_adds == plan.multiply_adds
    for matrix in [*plan.h, plan.w]:
        assert_chunks(matrix, accumulators)


def assert_chunks(matrix: Any, accumulators: int) -> None:
    """Chunks follow each other without a gap, fit in registers, and use up the packed coefficients."""
    orbit = 0
    for begin, orbits, offset, _ in matrix["chunks"]:
        assert begin == orbit
        assert 0 < orbits << matrix["folds"] <= max(accumulators, 1 << matrix["folds"])
        assert 0 <= offset <= len(matrix["coefficients"])
        orbit += orbits
    assert orbit == -(-matrix["out"] // (1 << matrix["folds"]))
    sizes = [orbits for _, orbits, _, _ in matrix["chunks"]]
    assert not sizes or max(sizes) - min(sizes) <= 1, "chunks are balanced"


@given(
    steps(),
    st.sampled_from(PRIORS),
    st.sampled_from(INTERPOLATIONS),
    st.booleans(),
    st.booleans(),
    st.sampled_from(ACCUMULATORS),
    st.sampled_from(list(ROUNDING)),
)
@example(((16, 16), (13, 13)), "dse", "bilinear", False, False, 12, "float32")
@example(((16, 16), (13, 13)), "dse", "bicubic", True, True, 6, "float64")
@example(((16, 16), (13, 13)), "dse", "nearest", False, False, 12, "float64")
@example(((24, 18), (18, 13)), "dse", "area", False, False, 6, "float64")
@example(((16, 12), (12, 9)), "dse", "bilinear", True, True, 6, "float64")
@example(((12, 11), (12, 9)), "dse", "bicubic", False, False, 12, "float64")
@example(((3, 2), (2, 2)), "dse", "bilinear", False, False, 12, "float64")
@example(((1, 1), (1, 1)), "dse", "bilinear", False, False, 12, "float64")
def test_packed_plan_is_the_operator(
    step: tuple[Size, Size],
    prior: str,
    interpolation: str,
    rescale: bool,
    transposed: bool,
    accumulators: int,
    dtype: str,
) -> None:
    assert_packed(*step, prior, interpolation, rescale, transposed, accumulators=accumulators, dtype=dtype)


def assert_prior(size: Size, prev_size: Size, *options: Any, accumulators: int) -> Any:
    """Compares the plan with the sum of its terms, on two random maps."""
    plan = host.plan(size, prev_size, *options, accumulators, "float64")
    terms = host.prior_terms(size, prev_size, *options)
    x = np.random.default_rng(0).standard_normal((terms[0][0].shape[1], terms[0][1].shape[1], 2))
    expected = sum(np.einsum("ri,ijv,cj->rcv", h, x, w, optimize=True) for h, w in terms)
    actual = Execution(plan, x.reshape(-1, 2)).output.reshape(expected.shape)
    assert np.abs(actual - expected).max() <= 1e-13 * np.abs(expected).max(), (prev_size, size, plan.form)
    return plan


@pytest.mark.parametrize("accumulators", ACCUMULATORS)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_plan_of_samplers_steps(interpolation: str, transposed: bool, accumulators: int) -> None:
    forms = set()
    for prev_size, size in schedules.every_step()[:: 1 if interpolation == "bilinear" else 7]:
        options = ("dse", interpolation, False, transposed)
        if size[0] * size[1] <= 1024:
            forms.add(assert_prior(size, prev_size, *options, accumulators=accumulators).form)
    assert "rank" in forms


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("prev_size", "size", "form"),
    [
        ((1, 1), (2, 2), "dense"),
        ((2, 2), (3, 3), "dense"),
        ((5, 5), (6, 6), "dense"),
        ((10, 10), (13, 13), "rank"),
        ((13, 13), (16, 16), "rank"),
        ((12, 12), (16, 16), "rank"),
        ((24, 24), (32, 32), "spectrum"),
        ((48, 48), (64, 64), "spectrum"),
        ((90, 45), (120, 60), "spectrum"),
        ((8, 8), (24, 24), "separable"),
    ],
)
def test_form(prev_size: Size, size: Size, form: str, transposed: bool) -> None:
    assert host.plan(size, prev_size, transposed=transposed).form == form


@pytest.mark.parametrize("dtype", list(ROUNDING))
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("prior", PRIORS)
def test_equal_sizes_are_one_identity_tap(prior: str, interpolation: str, dtype: str) -> None:
    size = (9, 12)
    plan = host.plan(size, size, prior, interpolation, dtype=dtype)
    assert plan.multiply_adds == 2 * 9 * 12
    x = np.random.default_rng(0).standard_normal((9 * 12, 3)).astype(dtype)
    np.testing.assert_array_equal(Execution(plan, x).output, x)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(("prev_size", "size"), [((7, 10), (9, 10)), ((10, 7), (10, 9)), ((2, 2), (3, 2))])
def test_an_axis_that_does_not_grow_is_not_multiplied(
    prev_size: Size, size: Size, prior: str, interpolation: str, transposed: bool
) -> None:
    (h, w), (prev_h, prev_w) = size, prev_size
    assert len(host.prior_terms(size, prev_size, prior, interpolation, transposed=transposed)) == 1
    plan = host.plan(size, prev_size, prior, interpolation, transposed=transposed)
    # One product along the axis that grows, and a copy along the other one.
    assert plan.multiply_adds <= max(h * prev_h * w, w * prev_w * h) + prev_h * prev_w


@pytest.mark.parametrize(("prior", "terms"), [("dse", 3), ("dse_zero_pad", 1), ("spatial", 1)])
def test_terms(prior: str, terms: int) -> None:
    assert len(host.prior_terms((16, 16), (13, 13), prior)) == terms


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_even_odd_wherever_factors_are_symmetric(interpolation: str, transposed: bool) -> None:
    for prev_size, size in schedules.every_step():
        if size[0] * size[1] > 1024 or prev_size[0] == size[0] or prev_size[1] == size[1]:
            continue
        plan = host.plan(size, prev_size, "dse", interpolation, transposed=transposed)
        if not plan.w["out"]:  # taps alone
            continue
        symmetric = [interpolation != "nearest" or m % n == 0 for n, m in zip(prev_size, size, strict=True)]
        if plan.h:
            assert (plan.h[0]["folds"] > 0) == symmetric[0], (prev_size, size)
            assert (plan.w["folds"] > 0) == symmetric[1], (prev_size, size)
        else:
            assert (plan.w["folds"] > 0) == all(symmetric), (prev_size, size)


@given(steps(largest=20), st.sampled_from(PRIORS), st.sampled_from(INTERPOLATIONS), st.booleans())
def test_costs_no_more_than_dense(
    step: tuple[Size, Size], prior: str, interpolation: str, transposed: bool
) -> None:
    terms = host.prior_terms(*step, prior, interpolation, transposed=transposed)
    plan = host.plan(*step, prior, interpolation, transposed=transposed)
    (outputs_h, inputs_h), (outputs_w, inputs_w) = terms[0][0].shape, terms[0][1].shape
    symmetric = all(host.is_symmetric(factor) for term in terms for factor in term)
    product = outputs_h * inputs_h * outputs_w * inputs_w / (2 if symmetric else 1)
    # A single term is never expanded, and the middle outputs of odd axes are multiplied with zeros.
    assert plan.multiply_adds <= product + outputs_h * outputs_w + inputs_h * max(inputs_w, outputs_w)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((16, 16), (13, 13)), ("rank", "16 slots", "folded 1 x 1", "3 x 2 taps")),
        (((16, 16), (13, 13), "dse", "nearest"), ("rank", "folded 0 x 0", "3 x 1 taps")),
        (((16, 16), (13, 13), "spatial"), ("separable", "2 x 2 taps")),
        (((64, 64), (48, 48)), ("spectrum", "48 slots", "folded 2 x 2")),
        (((3, 3), (2, 2)), ("dense", "folded 1 time")),
        (((8, 4), (6, 4)), ("separable, axes swapped",)),
    ],
)
def test_describe(arguments: tuple[Any, ...], words: tuple[str, ...]) -> None:
    plan = host.plan(*arguments)
    text = plan.describe()
    assert text == str(plan)
    assert "\n" not in text
    for word in (*words, f"{plan.multiply_adds} multiply-adds"):
        assert word in text


@pytest.mark.parametrize("transposed", [False, True])
def test_long_axes_are_planned_in_moments(transposed: bool) -> None:
    """Planning takes a few operations for each entry of a factor. Together these took two minutes and a half when it
    multiplied matrices; now they take about two seconds of processor time, which other processes do not change."""
    begin = time.process_time()
    for prev_size, size in (
        ((1, 1024), (1, 1024)),
        ((1, 1), (128, 128)),
        ((1, 1500), (1, 2048)),
        ((3000, 1), (4096, 1)),
        ((1, 3000), (1, 4096)),
        ((4096, 4096), (4096, 4096)),
    ):
        host.plan(size, prev_size, transposed=transposed)
    assert time.process_time() - begin < 15


def test_plan_is_cached_and_read_only() -> None:
    plan = host.plan((16, 16), (13, 13))
    others = [
        host.plan((16, 16), (12, 13)),
        host.plan((16, 16), (13, 13), rescale=True),
        host.plan((16, 16), (13, 13), "spatial"),
        host.plan((16, 16), (13, 13), "dse", "area"),
        host.plan((16, 16), (13, 13), transposed=True),
        host.plan((16, 16), (13, 13), accumulators=6),
        host.plan((16, 16), (13, 13), dtype="float64"),
    ]
    assert host.plan((16, 16), (13, 13)) is plan
    assert len({id(p) for p in [plan, *others]}) == 8
    before = plan.w["coefficients"].copy()
    plan.w["coefficients"][:] = 0
    plan.columns.clear()
    np.testing.assert_array_equal(plan.w["coefficients"], before)
    assert len(plan.columns) == 3
    with pytest.raises(AttributeError):
        plan.row = 7


def test_a_plan_outlives_the_cache() -> None:
    """The cache is bounded; what it drops stays valid with whoever holds it."""
    plan = host.plan((16, 16), (13, 13))
    text, coefficients = plan.describe(), plan.w["coefficients"].copy()
    for h in range(1, 41):
        for w in range(1, 41):
            host.plan((h, w), (1, 1), "spatial", "nearest")
    assert plan.describe() == text
    np.testing.assert_array_equal(plan.w["coefficients"], coefficients)
    assert host.plan((16, 16), (13, 13)).describe() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": "x"}, "prior must be one of 'dse', 'dse_zero_pad', 'spatial', got 'x'"),
        ({"dtype": "float16"}, "dtype must be one of 'float32', 'float64', got 'float16'"),
        ({"accumulators": 0}, "accumulators must be positive, got 0"),
        ({"prev_size": (17, 1)}, "prev_size must not exceed size"),
        ({"prev_size": (0, 1)}, "prev_size must be positive"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        host.plan(**{"size": (16, 16), "prev_size": (13, 13), **arguments})
