"""What the assembler made of a kernel: registers, spilled bytes, and its loops in machine code."""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.ptx.parse import alone


@dataclass(frozen=True)
class Loop:
    """An innermost loop: its instructions, and how many of them multiply matrices or access shared memory."""

    instructions: int
    matrix: int
    shared: int


@dataclass(frozen=True)
class Resources:
    registers: int
    spilled: int  # bytes
    instructions: int  # of the whole kernel, each once
    loops: tuple[Loop, ...]  # none where there is no disassembler


@functools.cache
def of_ptx(ptx: str, name: str) -> Resources:
    """Of a kernel of a file that nvcc made, by the toolkit's ptxas."""
    nvcc = shutil.which("nvcc")
    beside = Path(nvcc).resolve().with_name("ptxas") if nvcc else Path("ptxas")
    program = str(beside) if beside.exists() else shutil.which("ptxas")
    if program is None:
        raise RuntimeError("ptxas was not found: put the CUDA toolkit on the PATH")
    target = re.search(r"\.target\s+(\w+)", ptx)
    assert target is not None
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(alone(ptx, name))
        command = [program, "-v", f"-arch={target[1]}", str(source), "-o", str(made)]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        cubin = made.read_bytes()
    used = re.search(r"Used (\d+) registers", report)
    spilled = re.search(r"(\d+) bytes spill stores", report)
    if used is None:
        raise RuntimeError(f"ptxas said nothing of registers: {report}")
    return Resources(int(used[1]), int(spilled[1]) if spilled else 0, *_disassembled(cubin))


@functools.cache
def of_cubin(cubin: bytes) -> Resources:
    """Of the one kernel that Triton compiled, by the tools that come with Triton."""
    report = _cuobjdump("-res-usage", cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", report or "")
    if found is None:
        raise RuntimeError(f"cuobjdump said nothing of registers: {report}")
    registers, stack, local = (int(x) for x in found.groups())
    return Resources(registers, stack + local, *_disassembled(cubin))


def _cuobjdump(how: str, cubin: bytes) -> str | None:
    """Its report; None where the program is neither in the toolkit nor in Triton."""
    folders = [Path(nvcc).resolve().parent for nvcc in [shutil.which("nvcc")] if nvcc]
    package = importlib.util.find_spec("triton")
    if package is not None and package.submodule_search_locations:
        folders.append(Path(package.submodule_search_locations[0], "backends/nvidia/bin"))
    for folder in folders:
        if (folder / "cuobjdump").exists() and (folder / "nvdisasm").exists():
            with tempfile.TemporaryDirectory() as scratch:
                file = Path(scratch, "kernel.cubin")
                file.write_bytes(cubin)
                command = [str(folder / "cuobjdump"), how, str(file)]
                return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return None


def _disassembled(cubin: bytes) -> tuple[int, tuple[Loop, ...]]:
    report = _cuobjdump("-sass", cubin)
    lines = re.findall(
        r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", report or "", re.M
    )
    code = [(int(at, 16), name, rest) for at, name, rest in lines]
    # The code ends with a branch to itself and padding.
    code = [each for each in code if each[1] != "NOP"]
    # A newer disassembler adds remarks behind the address.
    back = [
        (int(rest.split("0x")[-1].split()[0], 16), at)
        for at, name, rest in code
        if name == "BRA" and "0x" in rest
    ]
    spans = sorted({(to, at) for to, at in back if to < at})
    innermost = [s for s in spans if not any(s != o and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    loops = []
    for first, last in innermost:
        names = [name for at, name, _ in code if first <= at <= last]
        matrix = sum("MMA" in name for name in names)
        shared = sum(name.startswith(("LDS", "STS", "LDGSTS")) for name in names)
        loops.append(Loop(len(names), matrix, shared))
    return len(code), tuple(loops)
