"""Registers of a thread, and bytes spilled to memory: of PTX by ptxas -v, of machine code by cuobjdump."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.ptx.parse import alone


def of_ptx(ptx: str, name: str) -> tuple[int, int]:
    """Of a kernel of a file that nvcc made."""
    nvcc = shutil.which("nvcc")
    beside = Path(nvcc).resolve().with_name("ptxas") if nvcc else Path("ptxas")
    program = str(beside) if beside.exists() else shutil.which("ptxas")
    if program is None:
        raise RuntimeError("ptxas was not found: put the CUDA toolkit on the PATH")
    target = re.search(r"\.target\s+(\w+)", ptx)
    assert target is not None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(alone(ptx, name))
        command = [program, "-v", f"-arch={target[1]}", str(source), "-o", str(Path(folder, "kernel.cubin"))]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    used = re.search(r"Used (\d+) registers", report)
    spilled = re.search(r"(\d+) bytes spill stores", report)
    if used is None:
        raise RuntimeError(f"ptxas said nothing of registers: {report}")
    return int(used[1]), int(spilled[1]) if spilled else 0


def of_cubin(cubin: bytes) -> tuple[int, int]:
    """Of the one kernel that Triton compiled."""
    package = importlib.util.find_spec("triton")
    assert package is not None
    assert package.submodule_search_locations
    tool = Path(package.submodule_search_locations[0], "backends/nvidia/bin/cuobjdump")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        report = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", report)
    if found is None:
        raise RuntimeError(f"cuobjdump said nothing of registers: {report}")
    registers, stack, local = (int(x) for x in found.groups())
    return registers, stack + local
