"""Measures the peak memory of one call beyond its output, each contender in a process of its own.

``python -m bench.memory CASE DTYPE CONTENDER THREADS`` prints the bytes of the first call and of the second.

The process first calls a tiny step, so that what libraries set up on first use does not count. Then it measures the
two calls. For each, it trims the heap, resets the system's high-water mark of resident memory
(/proc/self/clear_refs) and calls the step. The peak is the new mark, less what was resident before, less the output,
whose pages are new.

The first call counts what is kept for later calls (scratch, cached factors); the second does not. Neither counts what
a baseline was built with (its matrices, a workspace). This works on Linux only, and is exact to some tens of pages per
core.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import baselines
from .cases import DTYPES, Case, make_inputs, select
from .machine import ROOT

CONTENDERS = ("ours", "baddbmm", "separable_rows", "naive_eager", "naive_fft", "merge_baddbmm")
# A smaller output may lie in memory that was already resident; the difference would then mean nothing.
MIN_OUTPUT = 4 << 20
TINY = Case("tiny", "memory", (2, 2), (3, 3), vocab=64)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) << 10
    raise OSError(f"no {key} in /proc/self/status")


def peaks_beyond_output(case: Case, dtype: torch.dtype, name: str) -> tuple[int, int]:
    """Bytes of the first and the second call. Raises OSError if the system does not offer the counters."""
    build = baselines.by_name(name).build
    tiny = replace(TINY, cfg=case.cfg)
    step = build(case, dtype, 1)
    inputs = make_inputs(case, dtype)[0]
    with torch.inference_mode():
        build(tiny, dtype, 1)(*make_inputs(tiny, dtype)[0])
        return _peak(step, inputs), _peak(step, inputs)


def _peak(step: baselines.Step, inputs: tuple[Tensor, Tensor]) -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    out = step(*inputs)
    peak = _status("VmHWM")
    return max(0, peak - before - out.numel() * out.element_size())


def measure(case: Case, dtype_name: str, threads: int) -> list[dict[str, Any]]:
    """One row per contender. The row has no "bytes" if the contender could not be measured."""
    dtype = DTYPES[dtype_name]
    if case.output_bytes(dtype) < MIN_OUTPUT:
        return []
    available = {c.name for c in baselines.contenders(case, dtype, compile_too=False)}
    rows = []
    for name in CONTENDERS:
        if name not in available:
            continue
        row: dict[str, Any] = {
            "case": case.name,
            "label": case.label,
            "dtype": dtype_name,
            "contender": name,
            "threads": threads,
        }
        command = [sys.executable, "-m", "bench.memory", case.name, dtype_name, name, str(threads)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode == 0:
            row["bytes"], row["bytes_again"] = (int(word) for word in done.stdout.split())
        rows.append(row)
    return rows


def main(arguments: list[str]) -> None:
    case, dtype, name, threads = arguments
    torch.set_num_threads(int(threads))
    print(*peaks_beyond_output(select([case])[0], DTYPES[dtype], name))


if __name__ == "__main__":
    main(sys.argv[1:])
