"""How long a block takes that shares its multiprocessor with nobody: what its warps wait for, by the executed schedule.

A warp issues an instruction a cycle, once the operands are there. The assembler moves an instruction ahead of others in
straight-line code; nothing moves over a branch or a barrier. Where all warps of a block have come to
a barrier, they go on together. Two clocks run: on the first block of a multiprocessor, which finds constants in the
second-level cache, and on those behind it, which find them in the first one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.ptx.defined import results, sources
from bench.ptx.machine import Active, Machine
from bench.ptx.parse import Immediate, Instruction, Kernel

Array = Any

# Cycles from the issue of an instruction to that of one which uses its result. Arithmetic, shared memory, both caches,
# device memory and m16n8k16: Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via
# Microbenchmarking" (arXiv 2402.13499), of an H100; an A100 and an RTX 4090 differ by a tenth. Barrier: Zhang et al.,
# "A Study of Single and Multi-device Synchronization Methods in Nvidia GPUs" (arXiv 2004.05371), of a V100.
ARITHMETIC = 4
SHARED = 29
FIRST_CACHE = 41
SECOND_CACHE = 263
MEMORY = 479
MATRIX = 33
BARRIER = 22
# An instruction that is moved ahead of others needs a register for its result. This share of a thread's registers is
# taken to be free for that, and says of how many others an instruction is moved ahead. It is a guess.
AHEAD = 0.5

_LOGITS = ("current", "previous")
_GROUPS = 4  # of asynchronous copies that a kernel may have on their way
_NEVER = np.float32(-1e30)


@dataclass(frozen=True)
class Effect:
    """When a region's results are there, and the next one may begin: the latest of each input and a delay."""

    inputs: Array  # rows of registers
    outputs: Array
    delays: (
        Array  # of each output, and last of the next region: behind the region's begin, and behind each input
    )


class Regions:
    """The straight-line code of a kernel."""

    def __init__(self, kernel: Kernel) -> None:
        blocks = kernel.blocks
        heads = {0} | {block.target for block in blocks if block.target is not None}
        for number, block in enumerate(blocks):
            if block.wait == "barrier":
                heads.add(number)
            if block.wait == "barrier" or block.instructions[-1].name in ("bra", "ret", "exit"):
                heads.add(number + 1)
        self._window = int(AHEAD * kernel.registers_at_most)
        self.code: dict[int, list[Instruction]] = {}
        for number, block in enumerate(blocks):
            if number in heads:
                head = number
                self.code[head] = []
            self.code[head] += block.instructions
        self.rows: dict[str, int] = {name: row for row, name in enumerate(kernel.registers)}
        for name in ("copies", *(f"group {n}" for n in range(_GROUPS))):
            self.rows[name] = len(self.rows)
        self._read = {head: _read_first(code) for head, code in self.code.items()}
        self._live = set().union(*self._read.values())
        self._from_memory: set[int] = set()  # the loads of logits
        self._effects: dict[tuple[int, bool], Effect] = {}

    def loads_logits(self, instruction: Instruction) -> None:
        if id(instruction) not in self._from_memory:
            self._from_memory.add(id(instruction))
            self._effects.clear()

    def effect(self, head: int, cold: bool) -> Effect:
        found = self._effects.get((head, cold))
        if found is None:
            found = self._effects[head, cold] = self._made(head, cold)
        return found

    def _latency(self, instruction: Instruction, cold: bool) -> int:
        name, opcode = instruction.name, instruction.opcode
        if id(instruction) in self._from_memory:
            return MEMORY
        if name in ("mma", "wgmma"):
            return MATRIX
        if ".global" in opcode or ".local" in opcode:
            return SECOND_CACHE if cold else FIRST_CACHE
        if ".shared" in opcode or name in ("shfl", "vote", "redux", "match"):
            return SHARED
        return ARITHMETIC

    def _made(self, head: int, cold: bool) -> Effect:
        code, inputs = self.code[head], sorted(self._read[head])
        at = {name: n + 1 for n, name in enumerate(inputs)}
        begin = np.full(len(inputs) + 1, _NEVER, np.float32)
        begin[0] = 0
        when: dict[str, Array] = {}

        def ready(name: str) -> Array:
            if name not in when:
                when[name] = begin.copy()
                if name in at:
                    when[name][at[name]] = 0
            return when[name]

        issued = [begin]  # when all instructions up to one have been issued
        for instruction in code:
            read, written = _operands(instruction)
            time = np.maximum.reduce([begin, *map(ready, read)])
            if instruction.name not in ("mov", "cvta"):  # the assembler removes them
                if len(issued) > self._window:
                    time = np.maximum(time, issued[-self._window])
                issued.append(np.maximum(issued[-1] + 1, time))
                time = time + self._latency(instruction, cold)
            if instruction.opcode == "cp.async.commit_group":
                for n in range(_GROUPS - 1, 0, -1):
                    older = ready(f"group {n - 1}")
                    when[f"group {n}"] = np.maximum(ready(f"group {n}"), older) if n == _GROUPS - 1 else older
                when["group 0"], when["copies"] = ready("copies"), begin
                continue
            for name in written:
                # Behind a predicate the result may be what was there before.
                keeps = instruction.guard is not None or name == "copies"
                when[name] = np.maximum(time, ready(name)) if keeps else time
        outputs = sorted(self._live & when.keys())
        rows = [self.rows[name] for name in outputs]
        delays = np.stack([*(when[name] for name in outputs), issued[-1]])
        return Effect(np.array([self.rows[name] for name in inputs], int), np.array(rows, int), delays)


def _operands(instruction: Instruction) -> tuple[list[str], list[str]]:
    """What an instruction waits for, and what it writes."""
    name, opcode = instruction.name, instruction.opcode
    groups = [f"group {n}" for n in range(_GROUPS)]
    if opcode == "cp.async.commit_group":
        return [], []
    if opcode.startswith("cp.async.wait_group"):
        (count,) = instruction.operands
        assert isinstance(count, Immediate)
        return groups[int(count.value) :], []
    if opcode.startswith("cp.async.wait_all"):
        return [*groups, "copies"], []
    read, written = sources(instruction), results(instruction)
    if instruction.guard is not None:
        read = [*read, instruction.guard.name]
    if name == "wgmma":
        read = [*read, *written]
    if opcode.startswith("cp.async."):
        written = ["copies"]
    return read, written


def _read_first(code: list[Instruction]) -> set[str]:
    """What a region reads before it writes it."""
    found: set[str] = set()
    known: set[str] = set()
    for instruction in code:
        read, written = _operands(instruction)
        if instruction.opcode == "cp.async.commit_group":
            read = written = ["copies", *(f"group {n}" for n in range(_GROUPS))]
        elif instruction.guard is not None or written == ["copies"]:
            read = [*read, *written]
        found.update(name for name in read if name not in known)
        known.update(written)
    return found


@functools.lru_cache(4)
def regions_of(kernel: Kernel) -> Regions:
    return Regions(kernel)


class Clocks:
    """The clocks of the warps of a machine."""

    def __init__(self, machine: Machine) -> None:
        self.regions = regions_of(machine.kernel)
        self.warps_per_block = machine.threads // 32
        warps = machine.lanes // 32
        self._block_of = np.repeat(np.arange(machine.block_count), machine.threads)
        # Of blocks that find constants in the first cache, and of those that do not.
        self.clock = np.zeros((2, warps), np.float32)
        self._ready = np.zeros((2, len(self.regions.rows), warps), np.float32)
        self._region = np.full(warps, -1)  # where a warp is
        self._missed = np.zeros(warps, bool)  # whether a constant was not in the first cache there
        self._touched: dict[int, Array] = {}  # by block, the sectors of constants at an address

    def block(self, number: int, active: Active) -> None:
        if number not in self.regions.code:
            return
        mask = active.mask.reshape(-1, 32).any(axis=1)
        self._leave(mask)
        self._region[mask] = number

    def loaded(
        self, instruction: Instruction, name: str, span: tuple[int, int], lanes: Array, where: Array
    ) -> None:
        if name in _LOGITS:
            self.regions.loads_logits(instruction)
            return
        first, behind = span
        touched = self._touched.get(first)
        if touched is None:
            blocks = len(self._block_of) // (32 * self.warps_per_block)
            touched = self._touched[first] = np.zeros((blocks, (behind - first) // 32 + 1), bool)
        at = self._block_of[lanes], where - first >> 5
        new = ~touched[at]
        if new.any():
            self._missed[lanes[new] // 32] = True
            touched[at] = True

    def joined(self, blocks: Array) -> None:
        """All warps of these blocks have come to the barrier."""
        mask = np.repeat(blocks, self.warps_per_block)
        self._leave(mask)
        together = self.clock.reshape(2, -1, self.warps_per_block).max(axis=2) + BARRIER
        self.clock[:, mask] = np.repeat(together, self.warps_per_block, axis=1)[:, mask]

    def longest(self) -> tuple[float, float]:
        """Cycles of the slowest block: of one that finds constants in the first cache, and of one that does not."""
        self._leave(np.ones(len(self._region), bool))
        warm, cold = self.clock.max(axis=1)
        return float(warm), float(cold)

    def _leave(self, mask: Array) -> None:
        """These warps have executed the region where they are."""
        codes = np.where(mask & (self._region >= 0), 2 * self._region + self._missed, -1)
        for code in set(codes.tolist()) - {-1}:
            warps = np.flatnonzero(codes == code)
            for clock, cold in ((0, False), (1, bool(code % 2))):
                self._advance(clock, warps, self.regions.effect(int(code) // 2, cold))
        self._region[mask] = -1
        self._missed[mask] = False

    def _advance(self, clock: int, warps: Array, effect: Effect) -> None:
        begin = self.clock[clock, warps]
        given = self._ready[clock][effect.inputs[:, None], warps]
        late = (given > begin).any(axis=1)
        times = effect.delays[:, :1] + begin
        if late.any():
            behind = effect.delays[:, 1:][:, late, None] + given[late]
            times = np.maximum(times, behind.max(axis=1))
        self._ready[clock][effect.outputs[:, None], warps] = times[:-1]
        self.clock[clock, warps] = times[-1]
