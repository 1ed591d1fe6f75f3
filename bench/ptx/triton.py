"""Triton's kernels, compiled and launched by the code that launches them on a GPU, up to the driver."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget

from bench.ptx import parse
from bench.ptx.case import Case
from bench.ptx.memory import Arena
from bench.ptx.parse import Kernel
from bench.ptx.schedule import execute
from ssg_kernels._triton import launch, plan, targets
from ssg_kernels._triton.step import LaunchPlan, Step


class Driver:
    """Stands in for the driver of a GPU: kernels compile, and launches come to `launched`."""

    def __init__(self, target: str, launched: Callable[..., None]) -> None:
        self._target, self._launched = target, launched
        self.utils = self

    def get_current_target(self) -> GPUTarget:
        if self._target.startswith("gfx"):
            return GPUTarget("hip", self._target, 64)
        return GPUTarget("cuda", int(self._target.removeprefix("sm_")), 32)

    def get_current_device(self) -> Driver:
        return self  # Triton's kernels, and where their launches go, are cached by device

    def get_current_stream(self, device: Driver) -> int:
        return 0

    def get_device_properties(self, device: Driver) -> dict[str, int]:
        return {"max_shared_mem": 227 << 10}

    def load_binary(self, *kernel: object) -> tuple[object, ...]:
        return object(), object(), 0, 0, 1024

    def unload_module(self, module: object) -> None:
        pass

    def launcher_cls(self, source: object, metadata: object) -> Callable[..., None]:
        return self._launched


@contextlib.contextmanager
def driver(target: str, launched: Callable[..., None] = lambda *arguments: None) -> Iterator[None]:
    before = triton.runtime.driver._active
    triton.runtime.driver.set_active(Driver(target, launched))
    try:
        yield
    finally:
        triton.runtime.driver._active = before


@dataclasses.dataclass(frozen=True)
class Launch:
    ptx: str
    cubin: bytes
    name: str
    grid: int
    threads: int
    shared_bytes: int
    arguments: tuple[tuple[str, Any, str], ...]  # name, value, type of each parameter


Choose = Callable[[Step, targets.Target, bool], LaunchPlan]


def launches(call: Callable[[], Any], target: str, choose: Choose | None = None) -> list[Launch]:
    """What the call would have launched on a card of that target, with plans chosen as given."""
    found: list[Launch] = []

    def take(self: Any, *arguments: Any) -> None:
        compiled = self.kernel[self.grid](*arguments, *self.constants, **self.options)
        kinds = compiled.src.signature
        named = zip(self.kernel.arg_names, (*arguments, *self.constants), strict=True)
        given = tuple((n, value, kinds[n]) for n, value in named if kinds[n] != "constexpr")
        code, metadata = compiled.asm, compiled.metadata
        threads, shared = 32 * metadata.num_warps, metadata.shared
        found.append(Launch(code["ptx"], code["cubin"], metadata.name, self.grid[0], threads, shared, given))

    # What was prepared for another target, or on the CPU, is not to be found again.
    with (
        driver(target),
        mock.patch.object(launch, "_launches", {}),
        mock.patch.object(launch, "_tables", {}),
        mock.patch.object(launch._Launch, "_run", take),
        mock.patch.object(targets, "of", return_value=targets.named(target)),
        mock.patch.object(plan, "make_plan", choose or plan.make_plan),
    ):
        call()
    return found


_FORMATS = {
    "i1": "<?",
    "i8": "<b",
    "i16": "<h",
    "i32": "<i",
    "u32": "<I",
    "i64": "<q",
    "u64": "<Q",
    "fp32": "<f",
    "fp64": "<d",
}


def run(
    launched: Launch,
    out: Tensor,
    *,
    blocks: Iterable[int] | None = None,
    counts: Any = None,
    checks: bool = True,
) -> None:
    """Executes a launch; `out`, which is one of its arguments, receives what was written."""
    arena = Arena()
    address = arena.place(out, "out", written=False, writable=True)
    values: list[tuple[str, Any]] = []
    for name, value, kind in launched.arguments:
        if isinstance(value, Tensor):
            values.append(("u64", address if value is out else arena.place(value, name)))
        else:
            values.append((kind, value))
    compiled = parse.kernel(launched.ptx, launched.name)
    execute(
        compiled,
        threads=launched.threads,
        grid=(launched.grid, 1, 1),
        parameters=_packed(compiled, values),
        memory=arena.space(),
        dynamic_shared=launched.shared_bytes,
        blocks=blocks,
        counts=counts,
        checks=checks,
    )
    arena.fetch(out, address, np.asarray(arena.is_written(out, address)))


def _packed(compiled: Kernel, values: list[tuple[str, Any]]) -> bytes:
    """The parameters; those behind the arguments are scratch memory that these kernels do not use."""
    last = compiled.parameters[-1]
    packed = bytearray(last.offset + last.size)
    for variable, (kind, value) in zip(compiled.parameters, values, strict=False):
        piece = struct.pack(_FORMATS[kind], value)
        if len(piece) != variable.size:
            raise ValueError(f"{variable.name} has {variable.size} bytes, a {kind} has {len(piece)}")
        packed[variable.offset : variable.offset + variable.size] = piece
    return bytes(packed)


def step_of(case: Case) -> Step:
    """The step as its launch describes it, on contiguous logits."""
    aligned = case.vocabulary % 16 == 0
    return Step(
        case.size,
        case.prev_size,
        case.batch,
        case.vocabulary,
        case.dtype.itemsize,
        case.halves,
        aligned=aligned,
    )


def planned(case: Case, target: str) -> LaunchPlan:
    """The plan of that step."""
    return plan.make_plan(step_of(case), targets.named(target), case.dtype == torch.float64)


def one_strip(chosen: LaunchPlan, batch: int, vocabulary: int, width: int | None = None) -> Choose:
    """The plan of a step, cut to one sample and `width` columns, by default those of one program."""
    strips = batch * -(-vocabulary // chosen.block_v)
    programs = chosen.programs // strips * -(-(width or chosen.block_v) // chosen.block_v)
    return lambda *ignored: dataclasses.replace(chosen, programs=programs)


def sample(
    logits: Tensor,
    uniform: Tensor,
    scale: float | Tensor,
    top_k: int | Tensor,
    top_p: float | Tensor,
    target: str,
    *,
    counts: Any = None,
    checks: bool = True,
) -> Tensor:
    """The tokens that the sampling kernel draws; -2 where no program wrote."""
    made: list[Tensor] = []

    def call() -> None:
        made.append(launch.sample(logits, uniform, scale, top_k, top_p))

    (launched,) = launches(call, target)
    out = made[0].fill_(-2)
    run(launched, out, counts=counts, checks=checks)
    return out
