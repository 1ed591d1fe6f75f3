"""What executed blocks took: instructions, shared-memory wavefronts, sectors of global memory, matrix products."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.ptx.machine import Active, Machine
from bench.ptx.parse import Instruction, Kernel

Array = Any

_SHAPE = re.compile(
    r"\.m(\d+)n(\d+)k(\d+)\.f32\.(tf32|bf16|f16)|\.m(\d+)n(\d+)k(\d+)\.row\.col\.f32\.(tf32|bf16|f16)"
)


def class_of(instruction: Instruction) -> str:
    """mov and cvta, which ptxas mostly removes, stand apart. Loads of parameters are counted."""
    name, opcode = instruction.name, instruction.opcode
    if name in ("mov", "cvta"):
        return "mov"
    if ".param" in opcode:
        return "parameter"
    if _SHAPE.search(opcode):
        return "matrix"
    if ".shared" in opcode and ".global" not in opcode and name != "fence":
        return "shared"
    if ".global" in opcode:
        return "global"
    if name in ("bar", "barrier", "fence", "wgmma", "cp"):
        return "synchronisation"
    if name in ("bra", "ret", "exit"):
        return "branch"
    if ".f64" in opcode:
        return "float64"
    if ".f32" in opcode or "f16" in opcode:
        return "float"
    return "integer"


def products_of(instruction: Instruction) -> tuple[str, int]:
    """The type and the multiply-adds of a matrix instruction, of the whole warp (wgmma: a quarter of its four)."""
    found = _SHAPE.search(instruction.opcode)
    assert found is not None
    m, n, k, kind = (x for x in found.groups() if x is not None)
    return kind, int(m) * int(n) * int(k) // (4 if instruction.name == "wgmma" else 1)


@dataclass
class Counts:
    blocks: int = 0
    instructions: Counter[str] = field(default_factory=Counter)  # of warps, by class
    products: Counter[str] = field(default_factory=Counter)  # multiply-adds of matrix instructions, by type
    barriers: float = 0.0  # of a block, each counted once
    wavefronts: int = 0
    fewest: int = 0
    by_access: Counter[str] = field(default_factory=Counter)  # wavefronts, by kind of access
    fewest_by_access: Counter[str] = field(default_factory=Counter)
    sectors: Counter[str] = field(default_factory=Counter)  # by tensor and direction
    requested: Counter[str] = field(default_factory=Counter)  # bytes
    operands: int = 0  # bytes of shared memory that wgmma read by itself

    def begin(self, machine: Machine) -> None:
        self.blocks += machine.block_count
        self._warps_per_block = machine.threads // 32
        self._spans = machine.spaces["global"].spans
        self._classes = _classes(machine.kernel)

    def block(self, number: int, active: Active) -> None:
        warps = int(active.mask.reshape(-1, 32).any(axis=1).sum())
        classes, products, barriers = self._classes[number]
        for name, count in classes.items():
            self.instructions[name] += warps * count
        for name, count in products.items():
            self.products[name] += warps * count
        if barriers:
            self.barriers += warps / self._warps_per_block

    def access(self, space: str, how: str, lanes: Array, where: Array, width: int) -> None:
        if space == "shared":
            made, fewest = wavefronts(lanes, where, width)
            self.wavefronts += made
            self.fewest += fewest
            self.by_access[f"{how} {width}"] += made
            self.fewest_by_access[f"{how} {width}"] += fewest
        elif space == "global":
            if not len(lanes):
                return
            name = "elsewhere"
            for first, behind, each in self._spans:
                if first <= int(where[0]) < behind:
                    name = each
            key = f"{name} {'stored' if how == 'st' else 'loaded'}"
            self.sectors[key] += len(np.unique((lanes.astype(np.int64) >> 5 << 50) | (where >> 5)))
            self.requested[key] += width * len(lanes)

    def operand(self, count: int) -> None:
        self.operands += count
        self.wavefronts += count // 128
        self.fewest += count // 128
        self.by_access["wgmma"] += count // 128
        self.fewest_by_access["wgmma"] += count // 128

    @property
    def issued(self) -> int:
        """Warp instructions, without moves."""
        return sum(n for name, n in self.instructions.items() if name != "mov")


def _classes(kernel: Kernel) -> list[tuple[Counter[str], Counter[str], int]]:
    found = []
    for block in kernel.blocks:
        classes: Counter[str] = Counter()
        products: Counter[str] = Counter()
        for instruction in block.instructions:
            name = class_of(instruction)
            classes[name] += 1
            if name == "matrix":
                kind, count = products_of(instruction)
                products[kind] += count
        found.append((classes, products, int(block.wait == "barrier")))
    return found


def wavefronts(lanes: Array, where: Array, width: int) -> tuple[int, int]:
    """The passes that the requests of some warps take through the 32 banks, and the fewest that their words could take.

    Lanes that access 8 bytes are served by half warps, 16 bytes by quarter warps (CUDA programming guide, "Shared
    Memory"). Within a pass each bank gives one word a wavefront; lanes that want the same word share it.
    """
    if not len(lanes):
        return 0, 0
    parts = max(1, width // 4)
    at_once = 32 // parts
    words = (where // 4)[:, None] + np.arange(parts)
    group = np.broadcast_to((lanes.astype(np.int64) // at_once)[:, None], words.shape)
    codes = np.unique((group << 24 | words).reshape(-1))
    groups, at = np.unique(codes >> 24, return_inverse=True)
    banks = np.bincount(at * 32 + (codes & 31), minlength=32 * len(groups)).reshape(-1, 32)
    warps = np.broadcast_to((lanes.astype(np.int64) // 32)[:, None], words.shape)
    whole = np.unique((warps << 24 | words).reshape(-1)) >> 24
    per_warp = np.unique(whole, return_counts=True)[1]
    return int(banks.max(axis=1).sum()), int((-(-per_warp // 32)).sum())
