"""What executed blocks took: instructions, shared-memory wavefronts, sectors of global memory, matrix products."""

from __future__ import annotations

import functools
import re
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from bench.ptx.latency import Clocks
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
    # Cycles of the slowest block by what its warps wait for: behind others on its multiprocessor, or first there.
    latency: float = 0.0
    first_latency: float = 0.0

    def begin(self, machine: Machine) -> None:
        self.blocks += machine.block_count
        self._warps_per_block = machine.threads // 32
        self._spans = machine.spaces["global"].spans
        self._kernel = machine.kernel
        self._warps = [0] * len(machine.kernel.blocks)
        self._clocks = Clocks(machine)

    def block(self, number: int, active: Active) -> None:
        self._warps[number] += active.warps
        self._clocks.block(number, active)

    def joined(self, blocks: Array) -> None:
        self._clocks.joined(blocks)

    def end(self) -> None:
        """The instructions and the clocks of the blocks that were executed since `begin`."""
        latency, first_latency = self._clocks.longest()
        self.latency = max(self.latency, latency)
        self.first_latency = max(self.first_latency, first_latency)
        for warps, (classes, products, barriers) in zip(self._warps, _classes(self._kernel), strict=True):
            if not warps:
                continue
            for name, count in classes.items():
                self.instructions[name] += warps * count
            for name, count in products.items():
                self.products[name] += warps * count
            if barriers:
                self.barriers += warps / self._warps_per_block

    def access(
        self,
        space: str,
        how: str,
        lanes: Array,
        where: Array,
        width: int,
        instruction: Instruction | None = None,
    ) -> None:
        """Of a load or a copy from global memory, `instruction` is the one that reads."""
        if space == "shared":
            if not len(lanes):
                return
            # What is 128 bytes further takes the same banks.
            moved = where - (where[0] & -128)
            made, fewest = _wavefronts(lanes.tobytes(), moved.tobytes(), width)
            self.wavefronts += made
            self.fewest += fewest
            self.by_access[f"{how} {width}"] += made
            self.fewest_by_access[f"{how} {width}"] += fewest
        elif space == "global":
            if not len(lanes):
                return
            name, span = "elsewhere", (0, 0)
            for first, behind, each in self._spans:
                if first <= int(where[0]) < behind:
                    name, span = each, (first, behind)
            if instruction is not None:
                self._clocks.loaded(instruction, name, span, lanes, where)
            key = f"{name} {'stored' if how == 'st' else 'loaded'}"
            self.sectors[key] += _sectors(lanes.tobytes(), (where - (where[0] & -32)).tobytes())
            self.requested[key] += width * len(lanes)

    def operand(self, count: int) -> None:
        self.operands += count
        self.wavefronts += count // 128
        self.fewest += count // 128
        self.by_access["wgmma"] += count // 128
        self.fewest_by_access["wgmma"] += count // 128

    def extended(self, more: Counts, times: int) -> Counts:
        """Of as many blocks that each take `times` more of what those of `more` take beyond these."""

        def longer(one: Any, other: Any) -> Any:
            if isinstance(one, Counter):
                return Counter({name: longer(one[name], other[name]) for name in one | other})
            return one + times * (other - one)

        return Counts(**{f.name: longer(getattr(self, f.name), getattr(more, f.name)) for f in fields(self)})

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
    words = (where >> 2)[:, None] + np.arange(1 << 23, (1 << 23) + parts)
    lanes = lanes.astype(np.int64)[:, None]
    codes = _distinct(lanes // at_once << 24 | words)
    groups = codes >> 24
    banks = np.bincount(
        (groups - groups[0]) * 32 + (codes & 31), minlength=32 * int(groups[-1] - groups[0] + 1)
    )
    whole = _distinct(lanes // 32 << 24 | words) >> 24
    per_warp = np.bincount(whole - whole[0])
    return int(banks.reshape(-1, 32).max(axis=1).sum()), int((-(-per_warp // 32)).sum())


def _distinct(codes: Array) -> Array:
    codes = np.sort(codes, axis=None)
    return codes[np.r_[True, codes[1:] != codes[:-1]]]


# A kernel asks for the same pattern again and again.
@functools.lru_cache(1 << 13)
def _wavefronts(lanes: bytes, where: bytes, width: int) -> tuple[int, int]:
    return wavefronts(np.frombuffer(lanes, np.int64), np.frombuffer(where, np.int64), width)


@functools.lru_cache(1 << 13)
def _sectors(lanes: bytes, where: bytes) -> int:
    warps = np.frombuffer(lanes, np.int64) >> 5 << 50
    return len(_distinct(warps + (np.frombuffer(where, np.int64) >> 5)))
