"""Runs one case in one dtype: makes the inputs, checks the contenders, times them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from . import baselines, check, summary
from .cases import Case, make_inputs
from .machine import l3_bytes
from .timing import Budget, Rotation, measure

# In a cold run, the inputs between two uses of one set fill the last-level cache this many times.
COLD_CACHES = 4


def cold_sets(input_bytes: int, l3: int) -> int:
    """How many input sets, at least two, fill the last-level cache more than ``COLD_CACHES`` times."""
    return max(2, math.ceil((COLD_CACHES * l3 + 1) / input_bytes))


def admit(
    contender: baselines.Contender,
    step: baselines.Step,
    inputs: tuple[torch.Tensor, torch.Tensor],
    want: torch.Tensor,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Calls the step once and judges its result. Returns the contender's row with the verdict."""
    row: dict[str, Any] = {"name": contender.name, "family": contender.family}
    start = time.perf_counter()
    try:
        got = step(*inputs)
    except Exception as error:
        print(f"{contender.name} failed: {error}", file=sys.stderr)
        return {**row, "verdict": "failed", "reason": type(error).__name__}
    if contender.compiled:
        row["compile_s"] = time.perf_counter() - start
    if not contender.checked:
        return {**row, "verdict": "not checked"}
    return {**row, **asdict(check.judge(got, want, dtype))}


def run_case(
    case: Case,
    dtype: torch.dtype,
    *,
    budget: Budget,
    cold: bool = False,
    compile_too: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Judges and times every contender of ``case``. Returns one result of the JSON."""
    sets = make_inputs(case, dtype, cold_sets(case.input_bytes(dtype), l3_bytes()) if cold else 2)
    rows = []
    steps = {}
    with torch.inference_mode():
        want = check.expected(case, *sets[0])
        for contender in baselines.contenders(case, dtype, compile_too):
            step = contender.build(case, dtype, len(sets) if cold else 1)
            row = admit(contender, step, sets[0], want, dtype)
            rows.append(row)
            if row["verdict"] in ("exact", "inexact", "not checked"):
                steps[contender.name] = step
        del want
        timings = measure(steps, Rotation(sets, cold), budget, progress)
    if compile_too:
        torch.compiler.reset()
    for row in rows:
        if row["name"] in timings:
            row.update(timings[row["name"]].as_json())
    summary.add_bandwidth(rows, case.bytes_moved(dtype))
    return {
        "case": case.as_json(),
        "dtype": str(dtype).removeprefix("torch."),
        "caches": "cold" if cold else "warm",
        "bytes": case.bytes_moved(dtype),
        "contenders": rows,
        "ratios": summary.ratios(rows),
    }
