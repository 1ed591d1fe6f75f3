"""The kernels in Triton's interpreter against the reference in float64.

The interpreter truncates float32 to bfloat16, whereas a GPU rounds. So bfloat16 results are judged as truncated ones,
and all others by the bounds that hold on a GPU.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from support.bounds import RELATIVE, assert_accurate, ulp
from support.strategies import DTYPES, INTERPOLATIONS, LAYOUTS, OUT_LAYOUTS, PRIORS, Call, calls, normal
from support.triton_forms import FORMS, of_form
from torch import Tensor
from triton.runtime import interpreter

import ssg_kernels
from ssg_kernels import _triton, reference
from ssg_kernels._call import GuidedCall, Options
from ssg_kernels._torch import fallback
from ssg_kernels._triton import launch, plan
from ssg_kernels._triton.step import LaunchPlan

INF = math.inf

# The interpreter computes with numpy, which warns of every inf - inf.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


@pytest.fixture(autouse=True)
def _no_plan_of_another_test() -> Iterator[None]:
    launch._launches.clear()
    yield
    launch._launches.clear()


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(plan, "make_plan", of_form(request.param))
    return request.param


def run(call: Call, logits: Tensor, prev_logits: Tensor, *strengths: float | Tensor, **out: Tensor) -> Tensor:
    operator = "guided_logits_cfg" if call.is_cfg else "guided_logits"
    arguments = (logits, prev_logits, call.size, call.prev_size, *strengths, *call.options)
    return _triton.guided(GuidedCall.of(operator, *arguments, **out))


def expected_of(call: Call, logits: Tensor, prev_logits: Tensor, *strengths: float | Tensor) -> Tensor:
    function = reference.guided_logits_cfg if call.is_cfg else reference.guided_logits
    strengths = tuple(s.double() if isinstance(s, Tensor) else s for s in strengths)
    return function(
        logits.double(), prev_logits.double(), call.size, call.prev_size, *strengths, *call.options
    )


def assert_right(actual: Tensor, expected: Tensor, *terms: Tensor) -> None:
    if actual.dtype != torch.bfloat16:
        assert_accurate(actual, expected, *terms)
        return
    assert actual.isfinite().all()
    if not actual.numel():
        return
    # Truncation gives the next smaller bfloat16 in magnitude, so the error is less than one step of bfloat16.
    largest = max(x.abs().max().item() for x in (expected, *terms))
    error = (actual.double() - expected).abs()
    assert (error <= RELATIVE[torch.bfloat16] * largest + ulp(expected, torch.bfloat16)).all()
    if actual.numel() >= 1000:
        cut = (expected.float().view(torch.int32) & -65536).view(torch.float32).bfloat16()
        assert (actual == cut).double().mean() >= 0.99


def check(call: Call) -> Tensor:
    logits, prev_logits, strengths = call.logits(), call.prev_logits(), call.strengths()
    before = logits.clone(), prev_logits.clone()
    actual = run(call, logits, prev_logits, *strengths)
    assert actual.dtype == call.dtype
    assert actual.is_contiguous()
    expected = expected_of(call, logits, prev_logits, *strengths)
    largest_strength = max([1.0, *(torch.as_tensor(s).abs().max().item() for s in strengths if call.batch)])
    terms = (largest_strength**2 * x.double() for x in (logits, prev_logits))
    assert_right(actual, expected, *terms)
    assert torch.equal(logits, before[0])
    assert torch.equal(prev_logits, before[1])
    return actual


# The interpreter is slow for every program, so maps are small, and few columns go beyond a tile.
@settings(max_examples=40)
@given(calls(largest=9))
def test_any_call(form: str, call: Call) -> None:
    launch._launches.clear()
    check(call)


@settings(max_examples=15)
@given(calls(largest=24, dtypes=(torch.float32, torch.bfloat16, torch.float16)))
def test_any_larger_call(call: Call) -> None:
    for form in ("dense_halves", "separable"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan, "make_plan", of_form(form))
            launch._launches.clear()
            check(call)


@settings(max_examples=30)
@given(calls(largest=7))
def test_any_call_as_planned(call: Call) -> None:
    check(call)


def test_every_option(form: str) -> None:
    kinds = ("float", "scalar", "vector")
    options = itertools.product(PRIORS, INTERPOLATIONS, (False, True), (False, True))
    for i, (prior, interpolation, rescale, is_cfg) in enumerate(options):
        dtype = DTYPES[(i + i // 4) % 4]
        check(Call((7, 5), (5, 3), 1, 37, dtype, prior, interpolation, rescale, is_cfg, kinds))


@pytest.mark.parametrize(
    ("size", "prev_size", "vocabulary"),
    [
        ((16, 16), (13, 13), 130),
        ((32, 32), (24, 24), 40),
        ((64, 64), (48, 48), 9),
        ((90, 30), (72, 24), 8),
        ((3, 70), (3, 33), 20),
        ((70, 3), (33, 3), 20),
        ((150, 4), (133, 3), 8),
        ((20, 20), (20, 20), 20),
        ((1, 37), (1, 1), 3),
    ],
)
def test_steps_of_many_tiles(size: tuple[int, int], prev_size: tuple[int, int], vocabulary: int) -> None:
    for form, dtype in (("dense_halves", torch.float32), ("separable", torch.float16)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan, "make_plan", of_form(form))
            check(Call(size, prev_size, 1, vocabulary, dtype, is_cfg=form == "separable"))
        launch._launches.clear()


def test_every_vocabulary(form: str) -> None:
    for i, vocabulary in enumerate((*range(1, 10), 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129)):
        check(Call((4, 3), (3, 2), 1, vocabulary, DTYPES[i % 4], is_cfg=i % 3 == 0, seed=vocabulary))


def test_every_layout(form: str) -> None:
    for i, (layout, prev_layout) in enumerate(zip(LAYOUTS, reversed(LAYOUTS), strict=True)):
        for is_cfg in (False, True):
            options = {"is_cfg": is_cfg, "layout": layout, "prev_layout": prev_layout}
            check(Call((4, 5), (3, 5), 2, 21, DTYPES[(i + is_cfg) % 4], **options))


@pytest.mark.parametrize(("batch", "vocabulary"), [(0, 16), (2, 0)])
def test_empty(batch: int, vocabulary: int) -> None:
    call = Call((3, 4), (2, 2), batch, vocabulary, is_cfg=True, kinds=("vector",) * 3)
    assert check(call).shape == (batch, 12, vocabulary)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64])
def test_any_real_strength(form: str, dtype: torch.dtype) -> None:
    call = Call((5, 4), (3, 4), 2, 21)
    logits, prev_logits = call.logits(), call.prev_logits()
    strided = torch.tensor([1, 9, 3, 9], dtype=dtype)[::2]
    for strength in (strided, strided[0], strided[:1].expand(2)):
        actual = run(call, logits, prev_logits, strength)
        assert_accurate(actual, expected_of(call, logits, prev_logits, strength))


def test_a_float_is_a_tensor_of_it(form: str) -> None:
    for is_cfg in (False, True):
        call = Call((5, 4), (3, 4), 2, 21, is_cfg=is_cfg)
        values = (0.625, 1.5, 0.75)[: 3 if is_cfg else 1]
        expected = run(call, call.logits(), call.prev_logits(), *values)
        for shapes in itertools.product([None, (), (2,)], repeat=len(values)):
            strengths = [v if s is None else torch.full(s, v) for v, s in zip(values, shapes, strict=True)]
            assert torch.equal(run(call, call.logits(), call.prev_logits(), *strengths), expected)


@pytest.mark.parametrize("is_cfg", [False, True])
@pytest.mark.parametrize("layout", OUT_LAYOUTS)
def test_out_is_written_everywhere_and_nowhere_else(form: str, layout: str, is_cfg: bool) -> None:
    call = Call((6, 5), (4, 5), 3, 37, is_cfg=is_cfg)
    arguments = (call.logits(), call.prev_logits(), *call.strengths())
    expected = run(call, *arguments)
    out = LAYOUTS[layout](torch.full_like(expected, torch.nan))
    around = out._base if out._base is not None else out
    assert run(call, *arguments, out=out).data_ptr() == out.data_ptr()
    assert torch.equal(out, expected)
    out.fill_(torch.nan)
    assert around.isnan().all()


@pytest.mark.parametrize("is_cfg", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "token_slice", "tokens_first"])
def test_in_place(form: str, layout: str, is_cfg: bool) -> None:
    # The sides are odd. A middle line is its own mirror: it must be read before it is written, and written only once.
    call = Call((7, 5), (5, 3), 3, 70, torch.float16, is_cfg=is_cfg, layout=layout)
    logits, prev_logits, strengths = call.logits(), call.prev_logits(), call.strengths()
    untouched = logits[3:].clone()
    expected = run(call, logits, prev_logits, *strengths)
    run(call, logits, prev_logits, *strengths, out=logits[:3])
    assert torch.equal(logits[:3], expected)
    assert torch.equal(logits[3:], untouched)


@pytest.mark.parametrize(("bad", "is_cfg"), [(torch.nan, False), (INF, True), (-INF, False)])
def test_what_is_not_finite_stays_in_its_sample_and_column(form: str, bad: float, is_cfg: bool) -> None:
    call = Call((6, 7), (4, 5), 3, 67, torch.float32, is_cfg=is_cfg)
    strengths = call.strengths()
    clean = run(call, call.logits(), call.prev_logits(), *strengths)
    for column, source in itertools.product((15, 66), ("logits", "prev_logits")):
        inputs = {"logits": call.logits(), "prev_logits": call.prev_logits()}
        inputs[source][1, 7, column] = bad
        dirty = run(call, inputs["logits"], inputs["prev_logits"], *strengths)
        assert not dirty[1, :, column].isfinite().all()
        clear = torch.ones(3, 67, dtype=torch.bool)
        clear[1, column] = False
        assert torch.equal(dirty.mT[clear], clean.mT[clear])
        if source == "logits":
            if bad != bad:
                assert dirty[1, 7, column].isnan()
            if bad == -INF:
                assert dirty[1, 7, column] == -INF


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_every_magnitude(form: str) -> None:
    """Each column by its own size, and the bits of one do not depend on another."""
    powers = (-100, -30, -14, -8, -3, 0, 3, 6, 9, 12, 16, 30, 100, 120)
    call = Call((9, 8), (7, 5), 2, len(powers))
    logits, prev_logits = (x * torch.exp2(torch.tensor(powers)) for x in (call.logits(), call.prev_logits()))
    actual, expected = (each(call, logits, prev_logits, 0.5) for each in (run, expected_of))
    for i in range(len(powers)):
        assert_accurate(actual[..., i], expected[..., i])
    beside = prev_logits.clone()
    beside[..., 1:] = prev_logits[..., 1:].flip(-1)
    assert torch.equal(run(call, logits, beside, 0.5)[..., 0], actual[..., 0])


def test_what_is_not_finite_makes_its_column_nan(form: str) -> None:
    for prior, value in (("dse", INF), ("dse_zero_pad", -INF), ("spatial", torch.nan)):
        call = Call((6, 7), (4, 5), 1, 5, prior=prior)
        prev_logits = call.prev_logits()
        prev_logits[0, 7, 2] = value
        actual = run(call, call.logits(), prev_logits, 0.5)
        assert actual[..., 2].isnan().all()
        assert actual[..., [0, 1, 3, 4]].isfinite().all()


@pytest.mark.parametrize("is_cfg", [False, True])
@pytest.mark.parametrize("beta", [0.5, 0.0, -1.0])
def test_masked_logits_stay_masked(form: str, is_cfg: bool, beta: float) -> None:
    call = Call((6, 7), (4, 5), 3, 67, is_cfg=is_cfg)
    strengths = (beta, 1.5, 0.5) if is_cfg else (beta,)
    logits, prev_logits = call.logits(), call.prev_logits()
    masked = torch.rand(3, 42, 67) < 0.3
    logits[:3][masked] = -INF
    expected = expected_of(call, logits, prev_logits, *strengths)
    actual = run(call, logits, prev_logits, *strengths)
    assert torch.equal(actual == -INF, masked)
    assert_accurate(actual[~masked], expected[~masked])
    prev_logits[0, 2, :], prev_logits[1, 3, :], prev_logits[2, 4, :] = torch.nan, -INF, INF
    if is_cfg:
        logits[3:, :, 3], logits[3:, :, 4] = -INF, torch.nan
    assert (run(call, logits, prev_logits, *strengths)[masked] == -INF).all()


def test_masked_logits_stay_masked_where_the_prior_overflows(form: str) -> None:
    call = Call((4, 4), (3, 3), 1, 32)
    logits = call.logits()
    logits[:, ::2] = -INF
    actual = run(call, logits, call.prev_logits(), 3e38)
    assert (actual[:, ::2] == -INF).all()


# The strides fit 32 bits, but their multiples do not: from sample to sample, from token to token, and to the
# unconditional half.
@pytest.mark.unpoisoned
@pytest.mark.parametrize("strides", [(2**30 + 64, 64, 1), (64, 2**30 + 4096, 1), (2**33, 2**31 + 64, 1)])
def test_elements_past_two_to_the_31(form: str, strides: tuple[int, int, int], tmp_path: Path) -> None:
    # The files are sparse: only the pages that are touched exist.
    def far(name: str, values: Tensor) -> Tensor:
        count = sum((n - 1) * stride for n, stride in zip(values.shape, strides, strict=True)) + 1
        with (tmp_path / name).open("wb") as file:
            file.truncate(4 * count)
        x = torch.from_file(str(tmp_path / name), shared=True, size=count).as_strided(values.shape, strides)
        return x.copy_(values)

    call = Call((2, 2), (2, 2), 3, 20, is_cfg=True)
    logits, prev_logits = call.logits(), call.prev_logits()
    expected = run(call, logits, prev_logits, 0.5, 1.5, 0.75)
    out = far("out", torch.full_like(expected, torch.nan))
    arguments = (far("logits", logits), far("prev_logits", prev_logits), 0.5, 1.5, 0.75)
    assert torch.equal(run(call, *arguments, out=out), expected)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_prior_linear(form: str, dtype: torch.dtype, transpose: bool) -> None:
    for size, prev_size, interpolation, scale in (
        ((7, 6), (5, 3), "bicubic", torch.tensor(0.75)),
        ((7, 6), (5, 4), "nearest", torch.tensor([0.5, -2.0])),
        ((6, 4), (6, 2), "area", torch.tensor([0.5, -2.0], dtype=torch.float64)),
    ):
        tokens = math.prod(size if transpose else prev_size)
        x = normal(2, tokens, 33, dtype=dtype)
        options = (size, prev_size, Options("dse", interpolation, True), transpose)
        actual = _triton.prior_linear(x, scale, *options)
        assert actual.is_contiguous()
        expected = fallback.reference_prior_linear(x.double(), scale.double(), *options)
        assert_accurate(actual, expected, 2 * x.double())


def test_sums_of_many_equal_logits(form: str) -> None:
    """Sums along h are 64 times as large as the logits, and float16 must hold both."""
    options = ((64, 2), (1, 1), Options("spatial", "nearest", False), True)
    x = torch.full((1, 128, 3), 10.0)
    actual = _triton.prior_linear(x, torch.tensor(1.0), *options)
    assert_accurate(actual, fallback.reference_prior_linear(x.double(), torch.tensor(1.0).double(), *options))


def test_equal_sizes_guide_away_from_the_previous_logits(form: str) -> None:
    logits, prev_logits = normal(2, 20, 33), normal(2, 20, 33)
    actual = _triton.guided(GuidedCall.of("guided_logits", logits, prev_logits, (4, 5), (4, 5), 0.75))
    assert_accurate(actual, logits.double() + 0.75 * (logits.double() - prev_logits.double()))


def test_the_operators_come_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSG_KERNELS_BACKEND", "triton")
    for is_cfg in (False, True):
        call = Call((5, 4), (3, 4), 2, 21, is_cfg=is_cfg, kinds=("vector", "float", "scalar"))
        function = ssg_kernels.guided_logits_cfg if is_cfg else ssg_kernels.guided_logits
        arguments = (call.logits(), call.prev_logits(), call.size, call.prev_size, *call.strengths())
        launched = len(launch._launches)
        actual = function(*arguments)
        assert len(launch._launches) == launched + 1
        assert torch.equal(actual, run(call, call.logits(), call.prev_logits(), *call.strengths()))


class LeastProducts:
    """Replaces the interpreter's matrix product by the least accurate one that matrix units may make.

    It truncates the sums to float32 after every eight products, and float32 operands to the 10 bits of tf32.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", self.create_dot)

    @staticmethod
    def create_dot(builder: Any, a: Any, b: Any, total: Any, *options: Any) -> Any:
        x, y, sums = LeastProducts.cut(a.data), LeastProducts.cut(b.data), total.data
        for first in range(0, x.shape[1], 8):
            exact = sums + x[:, first : first + 8].astype(np.float64) @ y[first : first + 8]
            nearest = exact.astype(np.float32)
            beyond = np.abs(nearest) > np.abs(exact)
            sums = np.where(beyond, np.nextafter(nearest, np.float32(0)), nearest)
        return interpreter.TensorHandle(sums, total.dtype.scalar)

    @staticmethod
    def cut(x: Any) -> Any:
        return x if x.dtype == np.float16 else (x.view(np.int32) & -8192).view(np.float32)


@pytest.mark.parametrize(
    ("form", "size", "prev_size"),
    [
        ("dense_halves", (16, 16), (13, 13)),
        ("dense_halves", (32, 32), (24, 24)),
        ("separable", (16, 16), (13, 13)),
        ("separable", (64, 64), (48, 48)),
    ],
)
def test_float32_is_accurate_with_the_least_products(
    form: str, size: tuple[int, int], prev_size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    LeastProducts(monkeypatch)
    call = Call(size, prev_size, 1, 16, interpolation="bicubic")
    arguments = (call.logits(), call.prev_logits(), 1.0)
    make_plan = of_form(form)
    monkeypatch.setattr(plan, "make_plan", make_plan)
    assert_accurate(run(call, *arguments), expected_of(call, *arguments))

    def plain(*step: Any) -> LaunchPlan:
        return dataclasses.replace(make_plan(*step), precision="tf32")

    monkeypatch.setattr(plan, "make_plan", plain)
    launch._launches.clear()
    with pytest.raises(AssertionError, match=r"miss the torch\.float32 bound"):
        assert_accurate(run(call, *arguments), expected_of(call, *arguments))
