"""The GPU backends against the reference in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from support.gpu_cases import assert_right, random_logits, run, to_device
from support.strategies import DTYPES, INTERPOLATIONS, LAYOUTS, OUT_LAYOUTS, PRIORS, Call, calls

from bench.schedules import INFINITY, VAR_256, VAR_512, VAR_1024, every_step, infinity, square, steps

INF = math.inf
HALF_AND_SINGLE = (torch.float32, torch.bfloat16, torch.float16)


def check(call: Call, device: torch.device, *, most: int | None = None) -> None:
    logits, prev_logits = random_logits(call, device)
    strengths = tuple(s.to(device) if isinstance(s, torch.Tensor) else s for s in call.strengths())
    actual = run(call, logits, prev_logits, *strengths)
    assert_right(call, actual, logits, prev_logits, strengths, most=most)


# Triton compiles a kernel for nearly every example, which takes it a second.
EXAMPLES = {"triton": 25}


def test_any_call(backend: str, device: torch.device) -> None:
    @settings(max_examples=EXAMPLES.get(backend, 200))
    @given(call=calls())
    def check_it(call: Call) -> None:
        logits, prev_logits = (to_device(x, device) for x in (call.logits(), call.prev_logits()))
        strengths = tuple(s.to(device) if isinstance(s, torch.Tensor) else s for s in call.strengths())
        before = logits.clone(), prev_logits.clone()
        actual = run(call, logits, prev_logits, *strengths)
        assert actual.is_contiguous()
        assert_right(call, actual, logits, prev_logits, strengths)
        assert torch.equal(logits, before[0])
        assert torch.equal(prev_logits, before[1])

    check_it()


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
@pytest.mark.parametrize("is_cfg", [False, True])
@pytest.mark.parametrize(
    ("sides", "batch"), [(VAR_256, 1), (VAR_256, 64), (VAR_512, 16), (VAR_1024, 4)], ids=str
)
def test_last_steps(
    backend: str, device: torch.device, sides: tuple[int, ...], batch: int, is_cfg: bool, dtype: torch.dtype
) -> None:
    prev_size, size = steps(square(sides))[-1]
    kinds = ("vector", "scalar", "float")
    check(Call(size, prev_size, batch, 4096, dtype, is_cfg=is_cfg, kinds=kinds), device, most=6)


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
def test_every_step_of_var_256(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    for prev_size, size in steps(square(VAR_256)):
        for batch in (1, 3):
            check(Call(size, prev_size, batch, 4096, dtype, kinds=("scalar", "float", "float")), device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ratio", list(INFINITY))
def test_last_steps_of_infinity(backend: str, device: torch.device, ratio: str, dtype: torch.dtype) -> None:
    for prev_size, size in steps(infinity(ratio))[-1 if backend == "triton" else -2 :]:
        check(Call(size, prev_size, 2, 64, dtype), device)
        check(Call(size[::-1], prev_size[::-1], 1, 112, dtype, is_cfg=True), device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_step_of_the_schedules(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    for i, (prev_size, size) in enumerate(every_step()):
        if backend == "triton" and i % 8:  # Triton compiles for each step, so it takes only some
            continue
        check(Call(size, prev_size, 1, 67, dtype, is_cfg=i % 4 == 0, seed=i), device)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("prior", PRIORS)
def test_every_option(backend: str, device: torch.device, prior: str, interpolation: str) -> None:
    for dtype in DTYPES:
        for rescale in (False, True):
            call = Call((16, 11), (13, 7), 2, 67, dtype, prior, interpolation, rescale, is_cfg=rescale)
            check(call, device)


@pytest.mark.unpoisoned
@pytest.mark.parametrize(
    ("batch", "vocabulary"), [(1, (1 << 31) // 256 + 4099), ((1 << 31) // (256 * 4096) + 3, 4096)], ids=str
)
def test_more_than_2_to_the_31_elements(
    backend: str, cuda: torch.device, batch: int, vocabulary: int
) -> None:
    free, _ = torch.cuda.mem_get_info(cuda)
    call = Call((16, 16), (13, 13), batch, vocabulary, torch.bfloat16, kinds=("scalar", "float", "float"))
    needed = 2 * batch * vocabulary * (2 * 256 + 169)
    if free < 1.3 * needed:
        pytest.skip(f"needs {1.3 * needed / 1e9:.0f} GB of GPU memory, {free / 1e9:.0f} GB are free")
    check(call, cuda, most=5)


@pytest.mark.parametrize("layout", OUT_LAYOUTS)
@pytest.mark.parametrize("is_cfg", [False, True])
def test_out(backend: str, device: torch.device, layout: str, is_cfg: bool) -> None:
    for dtype in HALF_AND_SINGLE:
        call = Call((9, 10), (7, 8), 3, 133, dtype, is_cfg=is_cfg)
        logits, prev_logits = random_logits(call, device)
        strengths = call.strengths()
        out = to_device(LAYOUTS[layout](torch.full((3, 90, 133), torch.nan, dtype=dtype)), device)
        assert run(call, logits, prev_logits, *strengths, out=out) is out
        assert_right(call, out, logits, prev_logits, strengths)


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
def test_in_place(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    for size, prev_size in (((16, 16), (13, 13)), ((32, 32), (24, 24)), ((3, 3), (2, 2))):
        call = Call(size, prev_size, 2, 515, dtype)
        logits, prev_logits = random_logits(call, device)
        before = logits.clone()
        run(call, logits, prev_logits, 0.75, out=logits)
        assert_right(call, logits, before, prev_logits, (0.75,))


@pytest.mark.parametrize("value", [math.nan, INF, -INF])
@pytest.mark.parametrize("is_cfg", [False, True])
def test_what_is_not_finite_stays_in_its_sample_and_column(
    backend: str, device: torch.device, is_cfg: bool, value: float
) -> None:
    for size, prev_size in (((16, 16), (13, 13)), ((24, 24), (18, 18)), ((3, 3), (2, 2))):
        call = Call(size, prev_size, 3, 130, is_cfg=is_cfg)
        logits, prev_logits = random_logits(call, device)
        strengths = call.strengths()
        clean = run(call, logits, prev_logits, *strengths)
        for spoilt in (logits, prev_logits):
            spoilt[1, 3, 65] = value
        actual = run(call, logits, prev_logits, *strengths)
        keep = torch.ones_like(clean, dtype=torch.bool)
        keep[1, :, 65] = False
        assert torch.equal(actual[keep], clean[keep])
        assert not actual[1, 3, 65].isfinite()
        if value == -INF:
            assert actual[1, 3, 65] == -INF


def test_the_same_bits_every_time(backend: str, device: torch.device) -> None:
    for size, prev_size in (
        ((16, 16), (13, 13)),
        ((32, 32), (24, 24)),
        ((64, 64), (48, 48)),
        ((2, 2), (1, 1)),
    ):
        call = Call(size, prev_size, 2, 1037)
        logits, prev_logits = random_logits(call, device)
        first = run(call, logits, prev_logits, 0.75)
        for _ in range(30):
            assert torch.equal(run(call, logits, prev_logits, 0.75), first)
