"""What the plan knows about each GPU family: its limits, and the peak rates of one representative card.

bench/ptx/rates.py has the sources of the rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Target:
    """One GPU family. Its rates are those that a good kernel reaches, not those of a datasheet."""

    name: str
    card: str
    clock: float  # cycles a second
    units: int  # number of multiprocessors, or of compute units on AMD
    copy: float  # bytes/s from and to device memory
    cache: float  # bytes/s out of the L2 cache
    fma: float  # flop/s of float32 multiply-adds
    matrix: float  # flop/s of the matrix instructions for `precision`, with 64 or more rows
    narrow: float  # the same with fewer rows; lower where those take other instructions
    precision: str  # how matrix products are as accurate as in float32 (common.py)
    products: int  # how many matrix products one product takes with `precision`
    shared: int  # bytes of shared memory that a program can have

    @property
    def is_amd(self) -> bool:
        return self.name.startswith("gfx")

    @property
    def has_warp_groups(self) -> bool:
        """Whether a product of 64 or more rows is one instruction of four warps, a warp group."""
        return self.narrow < self.matrix


def _nvidia(name: str, card: str, clock: float, units: int, *rates: float, shared: int) -> Target:
    memory, cache, fma, matrix, narrow = (r * 1e12 for r in rates)
    return Target(
        name, card, clock * 1e9, units, memory, cache, fma, matrix, narrow, "f16x3", 3, shared << 10
    )


def _amd(name: str, card: str, units: int, *rates: float, shared: int) -> Target:
    # AMD's matrix units multiply float32 itself. They need no splitting. Nobody has counted what these cards issue.
    memory, cache, fma, matrix, narrow = (r * 1e12 for r in rates)
    return Target(name, card, math.inf, units, memory, cache, fma, matrix, narrow, "ieee", 1, shared << 10)


TARGETS = {
    target.name: target
    for target in (
        # GHz, units, TB/s of memory, TB/s of L2, Tflop/s of FMA, of matrix instructions (float16 with float32 sums on
        # NVIDIA, float32 on AMD), of narrow ones
        _nvidia("sm_80", "A100", 1.41, 108, 1.6, 4.0, 15.0, 310.0, 310.0, shared=163),
        _nvidia("sm_86", "RTX A6000", 1.8, 84, 0.65, 3.0, 25.0, 150.0, 150.0, shared=99),
        _nvidia("sm_89", "L40S", 2.5, 142, 0.75, 4.0, 60.0, 360.0, 360.0, shared=99),
        _nvidia("sm_90", "H200", 1.755, 132, 4.3, 5.5, 45.0, 940.0, 580.0, shared=227),
        _nvidia("sm_100", "B200", 1.85, 148, 7.0, 10.0, 55.0, 2200.0, 580.0, shared=227),
        _nvidia("sm_120", "RTX PRO 6000", 2.4, 188, 1.6, 6.0, 80.0, 230.0, 230.0, shared=99),
        _amd("gfx942", "MI300X", 304, 4.0, 8.0, 60.0, 90.0, 90.0, shared=64),
        _amd("gfx950", "MI355X", 256, 6.0, 10.0, 60.0, 90.0, 90.0, shared=160),
    )
}


def named(name: str) -> Target:
    """The target of that name. A name that is not in the table gets the nearest older sm_NN, or gfx942 for gfxNNN.

    Raises ValueError for any other name, and for sm_NN below sm_80.
    """
    if name in TARGETS:
        return TARGETS[name]
    if name.startswith("gfx"):
        return TARGETS["gfx942"]
    digits = name.removeprefix("sm_")
    if digits == name or not digits.isdigit() or int(digits) < 80:
        known = ", ".join(TARGETS)
        raise ValueError(f"target must be sm_80 or newer, or gfx...; known are {known}; got {name!r}")
    older = [number for number in map(_number, TARGETS) if number and number <= int(digits)]
    return TARGETS[f"sm_{max(older)}"]


def of(device: torch.device) -> Target:
    """The target of a device. Tensors on the CPU, which run in the interpreter, are planned as for sm_90."""
    if device.type == "cpu":
        return TARGETS["sm_90"]
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return named(properties.gcnArchName.split(":")[0])
    return named(f"sm_{properties.major}{properties.minor}")


def _number(name: str) -> int:
    return int(name[3:]) if name.startswith("sm_") else 0
