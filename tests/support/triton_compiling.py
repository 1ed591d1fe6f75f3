"""Compiles plans for a GPU that the machine does not have, with the call that launches them, and reads the code."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton

from bench.ptx.triton import driver
from ssg_kernels._triton import launch, sampling
from ssg_kernels._triton.step import LaunchPlan, Step

_PRODUCTS = re.compile(
    r"wgmma\.mma_async[\w.]*|tcgen05\.mma[\w.:]*|\bmma\.sync[\w.]*|\bfma\.rn\.f(?:32|64)"
    r"|\bv_mfma_\w+|\bv_(?:pk_)?fmac?_f(?:32|64)"
)


@dataclass(frozen=True)
class Compiled:
    text: str  # PTX, or the assembly of an AMD GPU
    products: Counter[str]  # counts of the instructions that multiply and add
    registers: int
    spilled: int  # bytes of stack, plus on AMD the number of spilled vector registers
    shared: int
    tensor_memory: int

    @property
    def dots(self) -> Counter[str]:
        """The matrix instructions among `products`."""
        return Counter({name: n for name, n in self.products.items() if "mma" in name or "mfma" in name})


def compile_plan(plan: LaunchPlan, step: Step, dtype: torch.dtype, target: str) -> Compiled:
    """Compiles as a launch does.

    The logits are aligned and contiguous, beta is a tensor with a value per sample, and other strengths are floats.
    """
    kernel, constants = launch.constants(plan, step, dtype)
    accurate = dtype == torch.float64
    logits = torch.empty(0, dtype=dtype)
    table = torch.empty(0, dtype=torch.float64 if accurate else torch.float32)
    rows, previous_rows = (h * w for h, w in (step.outputs, step.inputs))
    out = (logits, rows * step.vocabulary, step.vocabulary)
    previous = (logits, previous_rows * step.vocabulary, step.vocabulary, 1)
    split = torch.empty(0, dtype=torch.float16) if plan.precision == "f16x3" else table
    tables = {"fma": (table,), "separable": (split, split, 1.0)}.get(plan.form, (split, 1.0))
    strengths = (table, 1, *((table, 0) if accurate else (0.5, None)) * 2)
    arguments = (*out, *out, 1, *previous, *tables, *strengths, step.batch, step.vocabulary, *constants)
    options = {"num_warps": plan.warps, "num_stages": plan.stages, **launch.UNFUSED}
    with driver(target):
        return read(kernel.warmup(*arguments, grid=(1,), **options))


def compile_sample(dtype: torch.dtype, vocabulary: int, target: str) -> Compiled:
    """Compiles the sampling kernel as a launch does, for a batch of one image with a float temperature."""
    constants, _, warps = launch.sample_tile(dtype, vocabulary)
    logits, uniform, out = (torch.empty(0, dtype=each) for each in (dtype, torch.float32, torch.int64))
    strides = (256 * vocabulary, vocabulary, 1)
    arguments = (
        out,
        logits,
        *strides,
        uniform,
        *(256, 1),
        *(1.0, None),
        *(0, None, 0, 0),
        *(0, None),
        *(1, 256, vocabulary),
        *constants,
    )
    with driver(target):
        options = {"num_warps": warps, "num_stages": 1, **launch.UNFUSED}
        return read(sampling.sample_kernel.warmup(*arguments, grid=(1,), **options))


def read(compiled: Any) -> Compiled:
    is_amd = "amdgcn" in compiled.asm
    text = compiled.asm["amdgcn" if is_amd else "ptx"]
    return Compiled(
        text,
        Counter(_PRODUCTS.findall(text)),
        *(_amd(text) if is_amd else _nvidia(compiled)),
        compiled.metadata.shared,
        getattr(compiled.metadata, "tmem_size", None) or 0,
    )


def _nvidia(compiled: Any) -> tuple[int, int]:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    cubin = next(path for name, path in compiled.metadata_group.items() if name.endswith(".cubin"))
    report = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    registers, stack, local = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", report).groups()
    return int(registers), int(stack) + int(local)


def _amd(text: str) -> tuple[int, int]:
    def fact(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", text)[1])

    # Spilled scalar registers do not count: they go to lanes of a vector register, not to memory.
    return fact("vgpr_count"), fact("vgpr_spill_count") + fact("private_segment_fixed_size")
