"""Blocks of a step, executed and counted. A result is kept in build/ptx as long as the kernel and the executor stay."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.ptx import cuda, parse, resources
from bench.ptx.case import Case
from bench.ptx.counts import Counts
from bench.ptx.resources import Loop, Resources
from ssg_kernels import reference
from ssg_kernels._call import GuidedCall, Options

OPTIONS = ("dse", "bilinear", False)
# The executor's own bound, far above rounding of the result and far below a wrong kernel.
_TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


@dataclass(frozen=True)
class Executed:
    """What some blocks took, and how they were launched. `error` is the largest one over the largest expected value."""

    counts: Counts
    threads: int
    shared_bytes: int
    resources: Resources
    error: float
    uses_wide_products: bool = False


def strip(case: Case, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first columns of logits of both scales and of `out`, of one sample. Rows are aligned as in the whole step."""
    generator = torch.Generator().manual_seed(0)
    stride = -(-width // 64) * 64 + case.vocabulary % 64
    made: list[Tensor] = []
    for halves, size in ((case.halves, case.size), (case.halves, case.prev_size), (1, case.size)):
        rows = math.prod(size)
        x = torch.empty(halves, rows, stride, dtype=case.dtype)[..., :width]
        made.append(x.copy_(3 * torch.randn(halves, rows, width, generator=generator)))
    logits, prev_logits, out = made
    return logits, prev_logits, out


def call_of(case: Case, logits: Tensor, prev_logits: Tensor, out: Tensor | None) -> GuidedCall:
    options = Options(*OPTIONS)
    return GuidedCall(
        case.operator, logits, prev_logits, case.size, case.prev_size, case.strengths, options, out
    )


def check(case: Case, logits: Tensor, prev_logits: Tensor, out: Tensor) -> float:
    """The largest error over the largest expected value; a wrong result is not counted."""
    expected = reference.compute(call_of(case, logits.double(), prev_logits.double(), None))
    error = ((out.double() - expected).abs().max() / expected.abs().max()).item()
    if not error <= _TOLERANCE[case.dtype]:
        raise RuntimeError(f"{case.name} in {case.dtype}: the executed kernel is wrong by {error:.2g}")
    return error


# ---- what was executed before


@functools.cache
def _executor() -> bytes:
    """Of all sources that decide what is executed, but for the kernels, whose PTX is at hand, and for the models."""
    models = ("__init__.py", "model.py", "rates.py", "ranking.py", "model.cpp", "latency.cpp", "search.cpp")
    folders = (Path(__file__).parent.glob("*.py"), *(cuda.ROOT.glob(f"csrc/{x}*.cpp") for x in ("", "cuda/")))
    found = hashlib.sha256()
    for path in sorted(path for folder in folders for path in folder):
        if path.name not in models:
            found.update(path.read_bytes())
    return found.digest()


def _kept(what: object, ptx: str, execute: Callable[[], Executed]) -> Executed:
    digest = hashlib.sha256(_executor() + repr((what, OPTIONS)).encode() + ptx.encode()).hexdigest()
    file = cuda.ROOT / "build/ptx/executed" / f"{digest[:32]}.json"
    if file.exists():
        found: dict[str, Any] = json.loads(file.read_text())
        counts: dict[str, Any] = {
            n: Counter(x) if isinstance(x, dict) else x for n, x in found.pop("counts").items()
        }
        made = found.pop("resources")
        loops = tuple(Loop(**loop) for loop in made.pop("loops"))
        return Executed(Counts(**counts), resources=Resources(**made, loops=loops), **found)
    executed = execute()
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(executed, default=lambda x: {f.name: getattr(x, f.name) for f in fields(x)}))
    part.rename(file)
    return executed


# ---- the backends


def cuda_strips(case: Case, target: str, plan: Any, count: int) -> Executed:
    """`count` strips of columns in all their splits, one after the other.

    Behind the first ones each takes what the one before it took: three are executed.
    """
    few = [_cuda(case.apart, target, plan, n) for n in sorted({min(count, 2), min(count, 3)})]
    if count <= 3:
        return few[-1]
    return replace(few[-1], counts=few[0].counts.extended(few[1].counts, count - 2))


def _cuda(case: Case, target: str, plan: Any, strips: int) -> Executed:
    logits, prev_logits, out = strip(case, min(strips * plan.columns, case.vocabulary))
    made = cuda.guided_launch(
        logits, prev_logits, out, case.strengths, sources=case.halves, target=target,
        choose=lambda call: plan.with_blocks(plan.splits), size=case.size, prev_size=case.prev_size,
    )  # fmt: skip
    ptx = cuda.ptx("guided.cu", target)
    text = parse.alone(ptx, made.kernel.name)

    def execute() -> Executed:
        counts = Counts()
        made.run(counts=counts, checks=False)
        error = check(case, logits, prev_logits, out)
        used = resources.of_ptx(ptx, made.kernel.name)
        return Executed(counts, made.threads, made.shared_bytes, used, error)

    cuts = (plan.column_warps, plan.warps, plan.group_pairs, plan.splits, strips)
    return _kept((case, target, plan.engine, plan.thread_columns, plan.made_for, cuts), text, execute)


def triton_strip(case: Case, target: str, plan: Any) -> Executed:
    """The programs of one strip of columns."""
    from bench.ptx import triton
    from ssg_kernels._triton import launch as launcher

    # As in the whole step, the vocabulary is a multiple of 16, for which Triton compiles.
    width = min(math.lcm(plan.block_v, 16), case.vocabulary)
    logits, prev_logits, out = strip(case, width)
    choose = triton.one_strip(plan, case.batch, case.vocabulary, width)
    call = call_of(case, logits, prev_logits, out)
    (launched,) = triton.launches(lambda: launcher.guided(call), target, choose)

    def execute() -> Executed:
        counts = Counts()
        triton.run(launched, out, counts=counts, checks=False)
        error = check(case, logits, prev_logits, out)
        used = resources.of_cubin(launched.cubin)
        return Executed(counts, launched.threads, launched.shared_bytes, used, error, "wgmma" in launched.ptx)

    return _kept((case.apart, target, launched.grid), launched.ptx, execute)
