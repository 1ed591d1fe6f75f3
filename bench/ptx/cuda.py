"""The CUDA kernels as nvcc compiles them, launched as csrc/cuda/run.cu launches them."""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.ptx import parse, rates
from bench.ptx.case import Case
from bench.ptx.memory import Arena
from bench.ptx.parse import Kernel
from bench.ptx.schedule import execute

ROOT = Path(__file__).parents[2]
_SOURCES = {"guided.cu": (), "sample.cu": ("--fmad=false",)}  # with the flags of CMakeLists.txt

Strength = float | Tensor


def host() -> Any:
    """The C++ core as Python sees it, which development builds have."""
    return importlib.import_module("ssg_kernels._host")


def compiler() -> str | None:
    return shutil.which("nvcc")


@cache
def ptx(source: str, target: str) -> str:
    """The PTX of a file of csrc/cuda; kept in build/ptx as long as no source changes."""
    nvcc = compiler()
    if nvcc is None:
        raise RuntimeError("nvcc was not found: put it on the PATH")
    folder = ROOT / "csrc"
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256(f"{version} {_SOURCES[source]}".encode())
    for path in sorted([*folder.glob("*.h"), *folder.glob("cuda/**/*.h"), folder / "cuda" / source]):
        digest.update(path.read_bytes())
    kept = ROOT / "build/ptx" / f"{source.removesuffix('.cu')}-{target}-{digest.hexdigest()[:16]}.ptx"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        made = kept.with_suffix(f".{os.getpid()}.part")  # two processes may compile at once
        flags = ["--ptx", "-O3", "-DNDEBUG", "-std=c++17", f"-arch={target}", *_SOURCES[source]]
        subprocess.run([nvcc, *flags, str(folder / "cuda" / source), "-o", str(made)], check=True)
        made.rename(kept)
    return kept.read_text()


Change = Callable[[str], str]  # of the text of a kernel, for tests of the executor


@cache
def kernel(source: str, target: str, function: str, argument: str, change: Change | None = None) -> Kernel:
    """The kernel template `function` with that template argument."""
    text = ptx(source, target)
    wanted = f"{function}<{argument}>(".replace(" ", "")
    names = [name for name in parse.entries(text) if wanted in host().demangled(name).replace(" ", "")]
    if len(names) != 1:
        raise ValueError(f"the PTX of {source} has {len(names)} kernels {function}<{argument}>")
    (name,) = names
    return parse.kernel(change(parse.alone(text, name)) if change else text, name)


@dataclass(frozen=True)
class Launch:
    """A kernel with all that it is launched with. `out` receives what it writes."""

    kernel: Kernel
    arena: Arena
    out: Tensor
    address: int
    threads: int
    blocks: int
    shared_bytes: int
    params: bytes

    def run(self, *, blocks: Iterable[int] | None = None, counts: Any = None, checks: bool = True) -> None:
        execute(
            self.kernel,
            threads=self.threads,
            grid=(self.blocks, 1, 1),
            parameters=self.params,
            memory=self.arena.space(),
            dynamic_shared=self.shared_bytes,
            blocks=blocks,
            counts=counts,
            checks=checks,
        )
        self.arena.fetch(self.out, self.address, np.asarray(self.arena.is_written(self.out, self.address)))


def _launch(arena: Arena, kernel: Kernel, launch: Any, out: Tensor, address: int) -> Launch:
    return Launch(
        kernel,
        arena,
        out,
        address,
        launch["threads"],
        launch["blocks"],
        launch["shared_bytes"],
        launch["params"],
    )


def _machine(target: str) -> dict[str, int]:
    card = rates.CARDS[target]
    return {"capability": int(target.removeprefix("sm_")), "multiprocessors": card.multiprocessors}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _place(
    arena: Arena, tensor: Tensor, name: str, part: Tensor | None = None, **how: bool
) -> tuple[int, int, int]:
    """Address, batch stride and token stride. Of a `part` alone the bytes are known."""
    assert tensor.stride(2) == 1 or tensor.shape[2] <= 1
    address = arena.place(tensor if part is None else part, name, **how)
    if part is not None:
        address += int(tensor.storage_offset() - part.storage_offset()) * tensor.element_size()
    return address, tensor.stride(0), tensor.stride(1)


def _number(arena: Arena, strength: Strength) -> tuple[int, int, str, float]:
    if isinstance(strength, Tensor):
        stride = strength.stride(0) if strength.dim() else 0
        return arena.place(strength, "strength"), stride, _name(strength.dtype), 0.0
    return 0, 0, "float32", float(strength)


def plan(case: Case, target: str = "sm_90") -> Any:
    """The plan of a step with aligned, contiguous logits."""
    return call_of(case, target).plan()


def call_of(case: Case, target: str = "sm_90") -> Any:
    """A call to be planned, not to be run."""
    places = [(256, math.prod(n) * case.vocabulary, case.vocabulary) for n in (case.size, case.prev_size)]
    return host().CudaCall(
        size=case.size,
        prev_size=case.prev_size,
        dtype=_name(case.dtype),
        batch=case.batch,
        vocabulary=case.vocabulary,
        current=[places[0]] * case.halves,
        previous=[places[1]] * case.halves,
        out=places[0],
        **_machine(target),
    )


def guided(
    logits: Tensor | None,
    prev_logits: Tensor,
    out: Tensor,
    strengths: Iterable[Strength],
    *,
    blocks: Iterable[int] | None = None,
    counts: Any = None,
    **how: Any,
) -> Launch:
    """Executes a step, or some blocks of it. `how` is what `guided_launch` takes."""
    made = guided_launch(logits, prev_logits, out, strengths, **how)
    made.run(blocks=blocks, counts=counts)
    return made


def guided_launch(
    logits: Tensor | None,
    prev_logits: Tensor,
    out: Tensor,
    strengths: Iterable[Strength],
    *,
    sources: int = 1,
    target: str = "sm_90",
    choose: Callable[[Any], Any] = lambda call: call.plan(),
    columns: slice | None = None,
    change: Change | None = None,
    **key: Any,
) -> Launch:
    """The launch of a step; `out` receives what it writes.

    `columns` are the only ones that the blocks touch, where not all are needed.
    """
    arena = Arena()
    batch, _, vocabulary = out.shape
    some = slice(None) if columns is None else columns

    def places(x: Tensor, name: str) -> list[tuple[int, int, int]]:
        halves = [x[s * batch : (s + 1) * batch] for s in range(sources)]
        return [_place(arena, half, name, half[..., some]) for half in halves]

    current = [] if logits is None else places(logits, "current")
    previous = places(prev_logits, "previous")
    written = out[..., some]
    to = _place(arena, out, "out", written, written=False, writable=True)
    call = host().CudaCall(
        dtype=_name(out.dtype),
        batch=batch,
        vocabulary=vocabulary,
        current=current,
        previous=previous,
        out=to,
        strengths=[_number(arena, s) for s in strengths],
        **_machine(target),
        **key,
    )
    chosen = choose(call)
    packed = bytearray(host().cuda_launch(call, chosen, 0)["coefficients"])
    at = arena.place(torch.frombuffer(packed, dtype=torch.uint8), "coefficients")
    launch = host().cuda_launch(call, chosen, at)
    compiled = kernel("guided.cu", target, launch["function"], launch["argument"], change)
    address = to[0] + int(written.storage_offset() - out.storage_offset()) * out.element_size()
    return _launch(arena, compiled, launch, written, address)


def sample(
    logits: Tensor,
    uniform: Tensor,
    scale: Strength,
    *,
    top_k: Strength = 0,
    top_p: Strength = 0.0,
    target: str = "sm_90",
    blocks: Iterable[int] | None = None,
    counts: Any = None,
    change: Change | None = None,
    checks: bool = True,
) -> Tensor:
    """The tokens that the sampling kernel draws; -2 where no block wrote."""
    arena = Arena()
    batch, tokens, vocabulary = logits.shape
    out = torch.full((batch, tokens), -2, dtype=torch.int64)
    at = arena.place(out, "out", written=False, writable=True)
    launch = host().cuda_sample_launch(
        logits=_place(arena, logits, "logits"),
        uniform=(arena.place(uniform, "uniform"), *uniform.stride()),
        uniform_is_double=uniform.dtype == torch.float64,
        scale=_number(arena, scale),
        out=at,
        dtype=_name(logits.dtype),
        batch=batch,
        tokens=tokens,
        vocabulary=vocabulary,
        top_k=_number(arena, top_k),
        top_p=_number(arena, top_p),
    )
    compiled = kernel("sample.cu", target, launch["function"], launch["argument"], change)
    _launch(arena, compiled, launch, out, at).run(blocks=blocks, counts=counts, checks=checks)
    return out
