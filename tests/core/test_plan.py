"""The packed plan: executed literally, it is the dense operator; and its form is the one that costs least."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import schedules
from support.packed import Execution, load_host, operator_of
from support.strategies import INTERPOLATIONS, PRIORS, sides

host = load_host()

Size = tuple[int, int]
MAX_ROWS = (3, 6)  # what the kernels' registers hold
# Coefficients are rounded to the plan's dtype, sums are not: of each term no more than its two factors' roundings.
ROUNDING = {"float64": 1e-13, "float32": 1e-6}


@st.composite
def steps(draw: st.DrawFn, largest: int = 12) -> tuple[Size, Size]:
    (prev_h, h), (prev_w, w) = draw(sides(largest)), draw(sides(largest))
    return (h, w), (prev_h, prev_w)


def assert_packed(size: Size, prev_size: Size, *options: Any, max_rows: int, dtype: str) -> None:
    plan = host.plan(size, prev_size, *options, max_rows, dtype)
    expected = host.dense_operator(size, prev_size, *options)
    actual, execution = operator_of(plan, expected.shape[1])
    assert actual.shape == expected.shape
    assert (execution.written == 1).all()
    assert np.abs(actual - expected).max() <= ROUNDING[dtype] * np.abs(expected).max()
    assert execution.multiply_adds == plan.multiply_adds
    assert_chunks(plan)


def assert_chunks(plan: Any) -> None:
    """Chunks follow each other without a gap, hold at most `max_rows`, and use up the packed coefficients."""
    for packed, length, chunked in (
        (plan.h_coefficients, plan.in_h, plan.block_chunks),
        (plan.w_coefficients, plan.dense_even + plan.dense_odd, [plan.w_chunks]),
    ):
        offset = 0
        for chunks in chunked:
            row = 0
            for begin, rows, at in chunks:
                assert (begin, at) == (row, offset)
                assert 0 < rows <= plan.max_rows
                row += rows
                offset += rows * length
            smallest, largest = min((c[1] for c in chunks), default=0), max((c[1] for c in chunks), default=0)
            assert largest - smallest <= 1, "chunks are balanced"
        assert offset == len(packed)


@given(
    steps(),
    st.sampled_from(PRIORS),
    st.sampled_from(INTERPOLATIONS),
    st.booleans(),
    st.booleans(),
    st.sampled_from(MAX_ROWS),
    st.sampled_from(list(ROUNDING)),
)
@example(((16, 16), (13, 13)), "dse", "bilinear", False, False, 6, "float32")
@example(((16, 16), (13, 13)), "dse", "bicubic", True, True, 3, "float64")
@example(((16, 16), (13, 13)), "dse", "nearest", False, False, 6, "float64")
@example(((24, 18), (18, 13)), "dse", "area", False, False, 3, "float64")
@example(((3, 2), (2, 2)), "dse", "bilinear", False, False, 6, "float64")
@example(((1, 1), (1, 1)), "dse", "bilinear", False, False, 6, "float64")
def test_packed_plan_is_the_operator(
    step: tuple[Size, Size],
    prior: str,
    interpolation: str,
    rescale: bool,
    transposed: bool,
    max_rows: int,
    dtype: str,
) -> None:
    assert_packed(*step, prior, interpolation, rescale, transposed, max_rows=max_rows, dtype=dtype)


@pytest.mark.parametrize("max_rows", MAX_ROWS)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_packed_plan_of_samplers_steps(interpolation: str, transposed: bool, max_rows: int) -> None:
    generator = np.random.default_rng(0)
    for prev_size, size in schedules.every_step()[:: 1 if interpolation == "bilinear" else 7]:
        if size[0] * size[1] > 600:
            continue
        options = ("dse", interpolation, False, transposed)
        plan = host.plan(size, prev_size, *options, max_rows, "float64")
        x = generator.standard_normal((plan.in_h * plan.in_w, 2))
        output = Execution(plan, x.reshape(plan.in_h, plan.in_w, 2)).output.reshape(-1, 2)
        expected = host.dense_operator(size, prev_size, *options) @ x
        assert np.abs(output - expected).max() <= 1e-13 * np.abs(expected).max(), (prev_size, size)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("prev_size", "size", "form"),
    [
        ((1, 1), (2, 2), "dense"),
        ((2, 2), (3, 3), "dense"),
        ((5, 5), (6, 6), "dense"),
        ((10, 10), (13, 13), "separable"),
        ((13, 13), (16, 16), "separable"),
        ((24, 24), (32, 32), "separable"),
        ((48, 48), (64, 64), "separable"),
        ((90, 45), (120, 60), "separable"),
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
    assert plan.terms == 1
    assert len(plan.h_coefficients) == len(plan.w_coefficients) == 0
    # An even and an odd tap of one half each: (a + b)/2 + (a - b)/2, which is a itself only where nothing rounds.
    x = np.random.default_rng(0).integers(-1000, 1000, (*size, 3)).astype(dtype)
    np.testing.assert_array_equal(Execution(plan, x).output, x)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(("prev_size", "size"), [((7, 10), (9, 10)), ((10, 7), (10, 9)), ((2, 2), (3, 2))])
def test_an_axis_that_does_not_grow_merges_terms(
    prev_size: Size, size: Size, prior: str, interpolation: str, transposed: bool
) -> None:
    assert host.plan(size, prev_size, prior, interpolation, transposed=transposed).terms == 1


@pytest.mark.parametrize(("prior", "terms"), [("dse", 3), ("dse_zero_pad", 1), ("spatial", 1)])
def test_terms(prior: str, terms: int) -> None:
    assert host.plan((16, 16), (13, 13), prior).terms == terms
    assert len(host.prior_terms((16, 16), (13, 13), prior)) == terms


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_even_odd_wherever_factors_are_symmetric(interpolation: str, transposed: bool) -> None:
    for prev_size, size in schedules.every_step():
        if size[0] * size[1] > 2048:
            continue
        plan = host.plan(size, prev_size, "dse", interpolation, transposed=transposed)
        if interpolation != "nearest":
            assert plan.symmetric_h, (prev_size, size)
            assert plan.symmetric_w, (prev_size, size)
        elif plan.form == "separable":
            assert plan.symmetric_h == (size[0] % prev_size[0] == 0), (prev_size, size)
            assert plan.symmetric_w == (size[1] % prev_size[1] == 0), (prev_size, size)


@given(steps(largest=20), st.sampled_from(PRIORS), st.sampled_from(INTERPOLATIONS), st.booleans())
def test_costs_no_more_than_dense(
    step: tuple[Size, Size], prior: str, interpolation: str, transposed: bool
) -> None:
    (h, w), (prev_h, prev_w) = step
    plan = host.plan(*step, prior, interpolation, transposed=transposed)
    outputs, inputs = (prev_h * prev_w, h * w) if transposed else (h * w, prev_h * prev_w)
    # A single term is never expanded: at worst, of a tiny axis, it costs as much as the product without even/odd.
    symmetric = plan.symmetric_h and plan.symmetric_w and (plan.terms > 1 or plan.form == "dense")
    product = ((outputs + 1) // 2 if symmetric else outputs) * inputs
    # Besides the product, every input (or output) passes through a slot.
    assert plan.multiply_adds <= product + max(inputs, 0 if symmetric else outputs)


@given(steps(largest=16), st.sampled_from(INTERPOLATIONS), st.booleans())
@example(((16, 16), (3, 1)), "nearest", False)  # plain factors: a dense operator without even/odd costs twice
def test_dense_only_where_separable_costs_more(
    step: tuple[Size, Size], interpolation: str, transposed: bool
) -> None:
    plan = host.plan(*step, "dse", interpolation, transposed=transposed)
    if plan.form == "separable":
        return
    (h, w), (prev_h, prev_w) = step
    out_h, out_w, in_h, in_w = (prev_h, prev_w, h, w) if transposed else (h, w, prev_h, prev_w)
    terms = host.prior_terms(*step, "dse", interpolation, transposed=transposed)
    symmetric_h, symmetric_w = (all(host.is_symmetric(term[axis]) for term in terms) for axis in (0, 1))
    pairs_h = (out_h + 1) // 2 if symmetric_h else out_h
    pairs_w = (out_w + 1) // 2 if symmetric_w else out_w
    # Without taps, and every slot of every row written once, about a multiply-add each.
    separable = len(terms) * (pairs_h * in_h * in_w + out_h * pairs_w * in_w + out_h * in_w)
    # The choice overlooks the odd middle output and the one pass of the dense form's inputs.
    assert plan.multiply_adds <= separable + 1.5 * in_h * in_w


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((16, 16), (13, 13)), ("separable even/odd x even/odd", "3 terms")),
        (((16, 16), (13, 13), "dse", "nearest"), ("separable plain x plain", "3 terms")),
        (((16, 16), (13, 13), "spatial"), ("separable even/odd x even/odd", "1 term")),
        (((3, 3), (2, 2)), ("dense even/odd", "1 term")),
    ],
)
def test_describe(arguments: tuple[Any, ...], words: tuple[str, ...]) -> None:
    plan = host.plan(*arguments)
    text = plan.describe()
    assert text == str(plan)
    assert "\n" not in text
    for word in (*words, f"{plan.blocks} block", f"{plan.multiply_adds} multiply-adds"):
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
        host.plan((16, 16), (13, 13), max_rows=3),
        host.plan((16, 16), (13, 13), dtype="float64"),
    ]
    assert host.plan((16, 16), (13, 13)) is plan
    assert len({id(p) for p in [plan, *others]}) == 8
    before = plan.h_coefficients.copy()
    plan.h_coefficients[:] = 0
    plan.slot_even.clear()
    np.testing.assert_array_equal(plan.h_coefficients, before)
    assert len(plan.slot_even) == plan.terms
    with pytest.raises(AttributeError):
        plan.terms = 7


def test_a_plan_outlives_the_cache() -> None:
    """The cache is bounded; what it drops stays valid with whoever holds it."""
    plan = host.plan((16, 16), (13, 13))
    text, coefficients = plan.describe(), plan.h_coefficients.copy()
    for h in range(1, 41):
        for w in range(1, 41):
            host.plan((h, w), (1, 1), "spatial", "nearest")
    assert plan.describe() == text
    np.testing.assert_array_equal(plan.h_coefficients, coefficients)
    assert host.plan((16, 16), (13, 13)).describe() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": "x"}, "prior must be one of 'dse', 'dse_zero_pad', 'spatial', got 'x'"),
        ({"dtype": "float16"}, "dtype must be one of 'float32', 'float64', got 'float16'"),
        ({"max_rows": 0}, "max_rows must be positive, got 0"),
        ({"prev_size": (17, 1)}, "prev_size must not exceed size"),
        ({"prev_size": (0, 1)}, "prev_size must be positive"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        host.plan(**{"size": (16, 16), "prev_size": (13, 13), **arguments})
