"""Compares the operators with the reference in float64, over shapes, options, dtypes and memory layouts."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from support.bounds import assert_accurate
from support.strategies import DTYPES, INTERPOLATIONS, LAYOUTS, OUT_LAYOUTS, PRIORS, Call, calls, normal
from torch import Tensor

import ssg_kernels
from bench.schedules import every_step
from ssg_kernels import reference

INF = math.inf
HALF = (torch.bfloat16, torch.float16)


def run(call: Call, logits: Tensor, prev_logits: Tensor, *strengths: float | Tensor, **out: Tensor) -> Tensor:
    function = ssg_kernels.guided_logits_cfg if call.is_cfg else ssg_kernels.guided_logits
    return function(logits, prev_logits, call.size, call.prev_size, *strengths, *call.options, **out)


def expected_of(call: Call, logits: Tensor, prev_logits: Tensor, *strengths: float | Tensor) -> Tensor:
    function = reference.guided_logits_cfg if call.is_cfg else reference.guided_logits
    strengths = tuple(s.double() if isinstance(s, Tensor) else s for s in strengths)
    return function(
        logits.double(), prev_logits.double(), call.size, call.prev_size, *strengths, *call.options
    )


def check(call: Call) -> Tensor:
    logits, prev_logits, strengths = call.logits(), call.prev_logits(), call.strengths()
    before = logits.clone(), prev_logits.clone()
    actual = run(call, logits, prev_logits, *strengths)
    assert actual.dtype == call.dtype
    assert actual.is_contiguous()
    assert (
        actual.untyped_storage().data_ptr()
        not in (
            logits.untyped_storage().data_ptr(),
            prev_logits.untyped_storage().data_ptr(),
        )
        or not actual.numel()
    )
    expected = expected_of(call, logits, prev_logits, *strengths)
    largest_strength = max([1.0, *(torch.as_tensor(s).abs().max().item() for s in strengths if call.batch)])
    terms = (largest_strength**2 * x.double() for x in (logits, prev_logits))
    assert_accurate(actual, expected, *terms)
    assert torch.equal(logits, before[0])
    assert torch.equal(prev_logits, before[1])
    return actual


@given(calls())
def test_any_call(backend: str, call: Call) -> None:
    check(call)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_option(backend: str, dtype: torch.dtype, prior: str, interpolation: str) -> None:
    for rescale, is_cfg in itertools.product((False, True), repeat=2):
        kinds = ("float", "scalar", "vector")
        check(Call((16, 11), (13, 7), 2, 67, dtype, prior, interpolation, rescale, is_cfg, kinds))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_step_of_the_schedules(backend: str, dtype: torch.dtype) -> None:
    for i, (prev_size, size) in enumerate(every_step()):
        check(Call(size, prev_size, 1, 5, dtype, is_cfg=i % 4 == 0, seed=i))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_pair_of_sides(backend: str, interpolation: str) -> None:
    for n in range(1, 21):
        for prev_n in range(1, n + 1):
            check(Call((n, 3), (prev_n, 2), 1, 9, interpolation=interpolation, seed=n))
            check(Call((2, n), (2, prev_n), 1, 9, torch.float64, interpolation=interpolation, seed=n))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_cfg", [False, True])
def test_every_vocabulary(backend: str, dtype: torch.dtype, is_cfg: bool) -> None:
    for vocabulary in (*range(1, 70), 95, 96, 97, 127, 128, 129, 255, 256, 257, 400, 513):
        check(Call((8, 9), (5, 7), 2, vocabulary, dtype, is_cfg=is_cfg, seed=vocabulary))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_cfg", [False, True])
@pytest.mark.parametrize("vocabulary", [1, 37])
def test_every_layout(backend: str, dtype: torch.dtype, is_cfg: bool, vocabulary: int) -> None:
    for layout in LAYOUTS:
        for prev_layout in ("contiguous", layout):
            check(
                Call(
                    (6, 5),
                    (4, 5),
                    3,
                    vocabulary,
                    dtype,
                    is_cfg=is_cfg,
                    layout=layout,
                    prev_layout=prev_layout,
                )
            )


@pytest.mark.parametrize(
    ("size", "prev_size", "batch", "vocabulary"),
    [
        ((2, 2), (1, 1), 1, 151_936),
        ((3, 4), (2, 2), 300, 3),
        ((1, 1), (1, 1), 3, 1000),
        ((64, 1), (1, 1), 2, 33),
        ((32, 32), (24, 24), 1, 130),
        ((64, 64), (48, 48), 2, 64),
    ],
)
def test_extreme_shapes(
    backend: str, size: tuple[int, int], prev_size: tuple[int, int], batch: int, vocabulary: int
) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        check(Call(size, prev_size, batch, vocabulary, dtype))


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize(
    ("dtype", "is_cfg"), [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False)]
)
def test_outputs_larger_than_a_cache(dtype: torch.dtype, is_cfg: bool) -> None:
    # From 8 MiB on, a kernel may write past the cache if rows are aligned. The last columns fill a part of a vector.
    columns = 2**23 // (1024 * dtype.itemsize)
    call = Call((32, 32), (24, 24), 1, columns + 40, dtype, is_cfg=is_cfg)
    logits, prev_logits, strengths = call.logits(), call.prev_logits(), call.strengths()
    expected = expected_of(call, logits, prev_logits, *strengths)
    for vocabulary, width in ((columns, columns), (columns + 40, columns + 40), (columns + 40, columns + 64)):
        around = torch.full((1, 1024, width), torch.nan, dtype=dtype)
        out = around[..., :vocabulary]
        own = logits.clone()[..., :vocabulary]
        run(call, own, prev_logits[..., :vocabulary], *strengths, out=out)
        assert_accurate(out, expected[..., :vocabulary])
        assert around[..., vocabulary:].isnan().all()
        # The result has the same bits wherever it is written.
        assert torch.equal(run(call, own, prev_logits[..., :vocabulary], *strengths), out)
        run(call, own, prev_logits[..., :vocabulary], *strengths, out=own[:1])
        assert torch.equal(own[:1], out)


@pytest.mark.parametrize("is_cfg", [False, True])
@pytest.mark.parametrize(("batch", "vocabulary"), [(0, 16), (2, 0), (0, 0)])
def test_empty(backend: str, is_cfg: bool, batch: int, vocabulary: int) -> None:
    for dtype in DTYPES:
        call = Call((3, 4), (2, 2), batch, vocabulary, dtype, is_cfg=is_cfg, kinds=("vector",) * 3)
        assert check(call).shape == (batch, 12, vocabulary)


def test_equal_sizes_guide_away_from_the_previous_logits(backend: str) -> None:
    logits, prev_logits = normal(2, 20, 33), normal(2, 20, 33)
    for prior in PRIORS:
        actual = ssg_kernels.guided_logits(logits, prev_logits, (4, 5), (4, 5), 0.75, prior)
        assert_accurate(actual, logits.double() + 0.75 * (logits.double() - prev_logits.double()))


@pytest.mark.parametrize("is_cfg", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_overload_gives_the_same_bits(backend: str, is_cfg: bool, dtype: torch.dtype) -> None:
    names = ("beta", "cfg", "prev_cfg") if is_cfg else ("beta",)
    packet = torch.ops.ssg.guided_logits_cfg if is_cfg else torch.ops.ssg.guided_logits
    call = Call((5, 4), (3, 4), 2, 21, dtype, is_cfg=is_cfg)
    arguments = (call.logits(), call.prev_logits(), list(call.size), list(call.prev_size))
    values = (0.625, 1.5, 0.75)[: len(names)]
    expected = run(call, *arguments[:2], *values)
    for is_float in itertools.product((True, False), repeat=len(names)):
        floats = [name for name, chosen in zip(names, is_float, strict=True) if chosen]
        overload = "float" if floats else ""
        if floats and len(floats) < len(names):
            overload += "_" + "_".join(floats)
        shapes = [[()] if chosen else [(), (2,)] for chosen in is_float]
        for chosen_shapes in itertools.product(*shapes):
            strengths = [
                value if chosen else torch.full(shape, value, dtype=torch.float32)
                for value, chosen, shape in zip(values, is_float, chosen_shapes, strict=True)
            ]
            op = getattr(packet, overload or "default")
            assert torch.equal(op(*arguments, *strengths), expected)
            assert torch.equal(run(call, *arguments[:2], *strengths), expected)
            out = torch.full_like(expected, torch.nan)
            op_out = getattr(packet, f"{overload}_out" if overload else "out")
            assert op_out(*arguments, *strengths, out=out).data_ptr() == out.data_ptr()
            assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF, torch.int64])
def test_any_real_strength(backend: str, dtype: torch.dtype) -> None:
    call = Call((5, 4), (3, 4), 2, 21)
    logits, prev_logits = call.logits(), call.prev_logits()
    strided = torch.tensor([1, 9, 3, 9], dtype=dtype)[::2]
    for strength in (strided, strided[0], strided[:1].expand(2)):
        actual = run(call, logits, prev_logits, strength)
        assert_accurate(actual, expected_of(call, logits, prev_logits, strength))


@pytest.mark.parametrize("is_cfg", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", OUT_LAYOUTS)
def test_out_is_written_everywhere_and_nowhere_else(
    backend: str, layout: str, dtype: torch.dtype, is_cfg: bool
) -> None:
    call = Call((6, 5), (4, 5), 3, 37, dtype, is_cfg=is_cfg)
    arguments = (call.logits(), call.prev_logits(), *call.strengths())
    expected = run(call, *arguments)
    out = LAYOUTS[layout](torch.full_like(expected, torch.nan))
    around = out._base if out._base is not None else out
    result = run(call, *arguments, out=out)
    assert result.data_ptr() == out.data_ptr()
    assert result.stride() == out.stride()
    assert torch.equal(out, expected)
    out.fill_(torch.nan)
    assert around.isnan().all()


@pytest.mark.parametrize("is_cfg", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", OUT_LAYOUTS)
def test_in_place(backend: str, layout: str, dtype: torch.dtype, is_cfg: bool) -> None:
    call = Call((13, 12), (10, 9), 3, 101, dtype, is_cfg=is_cfg, layout=layout)
    logits, prev_logits, strengths = call.logits(), call.prev_logits(), call.strengths()
    untouched = logits[call.batch :].clone()
    expected = run(call, logits, prev_logits, *strengths)
    own = logits[: call.batch]
    run(call, logits, prev_logits, *strengths, out=own)
    assert torch.equal(own, expected)
    assert torch.equal(logits[call.batch :], untouched)


@pytest.mark.parametrize("is_cfg", [False, True])
def test_in_place_among_the_scales_of_one_tensor(backend: str, is_cfg: bool) -> None:
    # The rows of one scale lie between those of another. Their address ranges overlap, but they share no memory.
    call = Call((3, 4), (2, 2), 2, 21, is_cfg=is_cfg)
    expected = run(call, call.logits(), call.prev_logits(), *call.strengths())
    scales = torch.cat([call.prev_logits(), call.logits(), normal(*call.logits().shape)], dim=1)
    before = scales.clone()
    prev_logits, logits = scales[:, :4], scales[:, 4:16]
    run(call, logits, prev_logits, *call.strengths(), out=logits[:2])
    assert torch.equal(logits[:2], expected)
    scales[:2, 4:16] = before[:2, 4:16]
    assert torch.equal(scales, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [1, 21])
@pytest.mark.parametrize(("size", "prev_size"), [((3, 4), (2, 2)), ((1, 1), (1, 1))])
def test_in_place_whatever_the_strides_of_sides_of_one(
    backend: str, size: tuple[int, int], prev_size: tuple[int, int], vocabulary: int, dtype: torch.dtype
) -> None:
    call = Call(size, prev_size, 1, vocabulary, dtype)
    expected = run(call, call.logits(), call.prev_logits(), 0.5)
    logits = call.logits()
    out = logits.as_strided(
        logits.shape,
        [stride if n > 1 else 7 for n, stride in zip(logits.shape, logits.stride(), strict=True)],
    )
    assert out.stride() != logits.stride()
    run(call, logits, call.prev_logits(), 0.5, out=out)
    assert torch.equal(logits, expected)


@pytest.mark.unpoisoned
@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elements_past_two_to_the_31(tmp_path: Path, dtype: torch.dtype) -> None:
    # The files are sparse: only the pages that are touched exist.
    def far(name: str, shape: tuple[int, int, int]) -> Tensor:
        strides = (2**31 + 5, 2**27 + 3, 1)
        count = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1
        with (tmp_path / name).open("wb") as file:
            file.truncate(count * dtype.itemsize)
        return torch.from_file(str(tmp_path / name), shared=True, size=count, dtype=dtype).as_strided(
            shape, strides
        )

    call = Call((3, 4), (2, 2), 2, 40, dtype)
    logits, prev_logits, out = (
        far(name, (2, n, 40)) for name, n in (("logits", 12), ("prev_logits", 4), ("out", 12))
    )
    logits.copy_(call.logits())
    prev_logits.copy_(call.prev_logits())
    run(call, logits, prev_logits, 0.5, out=out)
    assert torch.equal(out, run(call, call.logits(), call.prev_logits(), 0.5))


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("is_cfg", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_whatever_the_number_of_threads(dtype: torch.dtype, is_cfg: bool) -> None:
    for size, prev_size, batch, vocabulary in (
        ((16, 16), (13, 13), 3, 1031),
        ((16, 16), (13, 13), 1, 4096),
        ((24, 16), (18, 12), 1, 50),
        ((2, 2), (1, 1), 5, 7),
    ):
        call = Call(size, prev_size, batch, vocabulary, dtype, is_cfg=is_cfg)
        arguments = (call.logits(), call.prev_logits(), *call.strengths())
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(run(call, *arguments))
        assert all(torch.equal(result, results[0]) for result in results[1:])


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("is_cfg", [False, True])
def test_a_sample_is_guided_as_if_it_were_alone(is_cfg: bool) -> None:
    call = Call((16, 16), (13, 13), 3, 200, is_cfg=is_cfg, kinds=("vector",) * 3)
    logits, prev_logits, strengths = call.logits(), call.prev_logits(), call.strengths()
    together = run(call, logits, prev_logits, *strengths)
    for i in range(3):
        alone = run(call, logits[i::3], prev_logits[i::3], *(s[i : i + 1] for s in strengths))
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("bad", [torch.nan, INF, -INF])
@pytest.mark.parametrize("is_cfg", [False, True])
def test_what_is_not_finite_stays_in_its_sample_and_column(
    backend: str, dtype: torch.dtype, prior: str, bad: float, is_cfg: bool
) -> None:
    call = Call((6, 7), (4, 5), 3, 67, dtype, prior, is_cfg=is_cfg)
    strengths = call.strengths()
    clean = run(call, call.logits(), call.prev_logits(), *strengths)
    for column in (0, 15, 16, 40, 66):
        for source in ("logits", "prev_logits"):
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_cfg", [False, True])
@pytest.mark.parametrize("beta", [0.5, 0.0, -1.0, -2.0])
def test_masked_logits_stay_masked(backend: str, dtype: torch.dtype, is_cfg: bool, beta: float) -> None:
    call = Call((6, 7), (4, 5), 3, 67, dtype, is_cfg=is_cfg)
    strengths = (beta, 1.5, 0.5) if is_cfg else (beta,)
    logits, prev_logits = call.logits(), call.prev_logits()
    masked = torch.rand(3, 42, 67) < 0.3
    masked[0, :, 1] = True
    logits[:3][masked] = -INF
    expected = expected_of(call, logits, prev_logits, *strengths)
    actual = run(call, logits, prev_logits, *strengths)
    assert torch.equal(actual == -INF, masked)
    assert_accurate(actual[~masked], expected[~masked])
    # They stay masked whatever the prior or the unconditional half holds there.
    prev_logits[0, 2, :] = torch.nan
    prev_logits[1, 3, :] = -INF
    prev_logits[2, 4, :] = INF
    if is_cfg:
        logits[3:, :, 3] = -INF
        logits[3:, :, 4] = torch.nan
    out = torch.full_like(actual, torch.nan)
    for result in (
        run(call, logits, prev_logits, *strengths),
        run(call, logits, prev_logits, *strengths, out=out),
    ):
        assert (result[masked] == -INF).all()


def test_an_infinite_logit_stays_infinite_over_a_finite_prior(backend: str) -> None:
    call = Call((6, 7), (4, 5), 2, 33)
    logits = call.logits()
    logits[1, 5, 32] = INF
    actual = run(call, logits, call.prev_logits(), 0.5)
    assert actual[1, 5, 32] == INF
    assert actual.isfinite().sum() == actual.numel() - 1


@pytest.mark.parametrize("dtype", HALF)
def test_every_half_precision_number_is_read_and_rounded_right(backend: str, dtype: torch.dtype) -> None:
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    numbers = numbers[~numbers.isinf()]
    call = Call((1, 1), (1, 1), 1, len(numbers), dtype)
    zeros = torch.zeros(1, 1, len(numbers), dtype=dtype)
    # (1 + beta) * x is exact in float32, so ties, subnormals and overflow must round as in torch.
    for beta in (0.0, 0.5, -0.75, 2.0):
        actual = run(call, numbers.view(1, 1, -1), zeros, beta).flatten()
        expected = ((1 + beta) * numbers.double()).to(dtype)
        assert torch.equal(actual.isnan(), expected.isnan())
        assert torch.equal(actual.nan_to_num(nan=0.0), expected.nan_to_num(nan=0.0))


@pytest.mark.parametrize("is_cfg", [False, True])
def test_autocast_changes_nothing(backend: str, is_cfg: bool) -> None:
    call = Call((4, 4), (3, 3), 2, 5, is_cfg=is_cfg, kinds=("scalar",) * 3)

    def results() -> list[Tensor]:
        inputs = [x.requires_grad_() for x in (call.logits(), call.prev_logits(), *call.strengths())]
        guided = run(call, *inputs)
        return [guided, *torch.autograd.grad(guided.square().sum(), inputs)]

    expected = results()
    with torch.autocast("cpu", torch.bfloat16):
        actual = results()
        prior = reference.dse_prior(call.prev_logits(), call.size, call.prev_size)
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(prior, reference.dse_prior(call.prev_logits(), call.size, call.prev_size))


@pytest.mark.usefixtures("extension")
def test_the_kernel_is_what_runs_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call((16, 16), (13, 13), 2, 100)
    arguments = (call.logits(), call.prev_logits(), 0.5)
    results = {}
    for backend in ("", "cpu", "reference"):
        monkeypatch.setenv("SSG_KERNELS_BACKEND", backend)
        results[backend] = run(call, *arguments)
    assert torch.equal(results[""], results["cpu"])
    # The two backends sum in different orders. Equal bits would mean that one of the names did not reach its backend.
    assert not torch.equal(results["cpu"], results["reference"])
