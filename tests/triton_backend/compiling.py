"""A plan compiled for a GPU that is not there, and what its code says of itself."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ssg_kernels._triton import launch
from ssg_kernels._triton.plan import LaunchPlan, Step

_TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
_INSTRUCTIONS = re.compile(
    r"wgmma\.mma_async[\w.]*|tcgen05\.mma[\w.:]*|\bmma\.sync[\w.]*|\bfma\.rn\.f(?:32|64)|\bv_mfma_\w+"
)


@dataclass(frozen=True)
class Compiled:
    text: str  # PTX or the assembly of an AMD GPU
    instructions: Counter[str]  # those that multiply
    registers: int
    spilled: int  # bytes of stack, or spilled registers
    shared: int
    tensor_memory: int


def compile_plan(plan: LaunchPlan, step: Step, dtype: torch.dtype, target: str) -> Compiled:
    """Compiles as a launch does, with aligned contiguous logits, a beta per sample and other strengths as floats."""
    kernel, constants = launch.constants(plan, step, dtype)
    names = [parameter.name for parameter in kernel.params]
    constexprs = dict(zip(names[-len(constants) :], constants, strict=True))
    logits, table = _TYPES[dtype], "fp64" if dtype == torch.float64 else "fp32"
    pointers = {"out": logits, "current": logits, "previous": logits}
    pointers |= {name: table for name in names if name.endswith("table")} | {"beta": table}
    signature: dict[str, str] = {}
    values: dict[tuple[int], Any] = {}
    attributes: dict[tuple[int], Any] = {}
    for i, name in enumerate(names):
        given = {**constexprs, "cfg_stride": None, "prev_cfg_stride": None}
        if name.endswith("_column"):
            given[name] = 1
        if name in given:
            signature[name], values[(i,)] = "constexpr", given[name]
        elif name in pointers:
            signature[name] = "*" + pointers[name]
        else:
            signature[name] = "fp32" if name in ("cfg", "prev_cfg") else "i32"
        if name in pointers or name.endswith(("_batch", "_token")) or name == "vocabulary":
            attributes[(i,)] = [["tt.divisibility", 16]]
    options = {"num_warps": plan.warps, "num_stages": plan.stages, **launch.FUSED}
    source = ASTSource(kernel, signature, values, attributes)
    compiled = triton.compile(source, target=_gpu(target), options=options)
    resources = _amd(compiled) if target.startswith("gfx") else _nvidia(compiled)
    text = compiled.asm["amdgcn" if target.startswith("gfx") else "ptx"]
    return Compiled(
        text,
        Counter(_INSTRUCTIONS.findall(text)),
        *resources,
        compiled.metadata.shared,
        getattr(compiled.metadata, "tmem_size", None) or 0,
    )


def _gpu(target: str) -> GPUTarget:
    if target.startswith("gfx"):
        return GPUTarget("hip", target, 64)
    return GPUTarget("cuda", int(target.removeprefix("sm_")), 32)


def _nvidia(compiled: Any) -> tuple[int, int]:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    cubin = next(path for name, path in compiled.metadata_group.items() if name.endswith(".cubin"))
    report = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    registers, stack, local = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", report).groups()
    return int(registers), int(stack) + int(local)


def _amd(compiled: Any) -> tuple[int, int]:
    def fact(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", compiled.asm["amdgcn"])[1])

    spilled = fact("vgpr_spill_count") + fact("sgpr_spill_count") + fact("private_segment_fixed_size")
    return fact("vgpr_count"), spilled
