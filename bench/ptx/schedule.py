"""Runs a kernel: of the threads that can go on, those with the lowest block of instructions advance together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bench.ptx import access, choices, matrix, warp
from bench.ptx.access import Copies
from bench.ptx.defined import demand, follow, names_of, perhaps_undefined
from bench.ptx.faults import Fault
from bench.ptx.machine import Active, Machine, call, unknown
from bench.ptx.memory import Space
from bench.ptx.parse import BITS, Block, Immediate, Instruction, Kernel, waits_for
from bench.ptx.undecided import Undecided
from bench.ptx.wgmma import Groups

Array = Any
Run = Callable[[Active], None]

_BUILDERS = {**choices.BUILDERS, "ld": access.load, "st": access.store, "atom": access.atomic,
             "red": access.atomic, **matrix.BUILDERS, **warp.BUILDERS}  # fmt: skip


def granule_of(kernel: Kernel) -> int:
    """The fewest bytes of shared memory that an instruction of the kernel accesses."""
    found = 4
    for block in kernel.blocks:
        for instruction in block.instructions:
            if ".shared" in instruction.opcode and instruction.name in ("ld", "st"):
                found = min(found, BITS.get(instruction.parts[-1], 8) // 8)
    return found


class Execution:
    def __init__(self, machine: Machine) -> None:
        self.machine, self.kernel = machine, machine.kernel
        self.copies, self.groups = Copies(machine), Groups(machine)
        self.undecided = Undecided(machine)
        for name in perhaps_undefined(machine.kernel):
            machine.undefined[name] = np.ones(machine.lanes, bool)
        self._bound: list[list[tuple[Run, Instruction]] | None] = [None] * len(self.kernel.blocks)
        self.at = np.zeros(machine.lanes, np.int32)  # the block that each lane stands before
        self.done = len(self.kernel.blocks)  # where a lane is that has returned
        self.waits = np.zeros(machine.lanes, bool)  # at a barrier
        self.votes = np.zeros(machine.lanes, bool)  # what they said there

    # ---- instructions

    def _bind(self, number: int) -> list[tuple[Run, Instruction]]:
        bound = self._bound[number]
        if bound is None:
            bound = []
            for instruction in self.kernel.blocks[number].instructions:
                try:
                    run = follow(self.machine, instruction, self._build(instruction))
                except Fault as fault:
                    raise fault.at(instruction.text) from None
                bound.append((run, instruction))
            self._bound[number] = bound
        return bound

    def _build(self, instruction: Instruction) -> Run:
        name, opcode = instruction.name, instruction.opcode
        if opcode.startswith("cp.async."):
            return self.copies.build(instruction)
        if name == "wgmma":
            return self.groups.build(instruction)
        if opcode in ("fence.proxy.async.shared::cta", "fence.proxy.async"):
            return self.groups.fence
        if name in ("bra", "ret", "exit", "barrier") or (name == "bar" and opcode != "bar.warp.sync"):
            return lambda active: None  # `_leave` sees to them
        if opcode == "bar.warp.sync":
            return warp.barrier(self.machine, instruction)
        builder = _BUILDERS.get(name)
        if builder is None:
            raise unknown(instruction)
        return builder(self.machine, instruction)

    def _run_block(self, number: int, active: Active) -> None:
        machine = self.machine
        if self.undecided.owed:
            self.undecided.arrive(number, active)
        if machine.counts is not None:
            machine.counts.block(number, active)
        for run, instruction in self._bind(number):
            now = active
            if instruction.guard is not None and instruction.name not in ("bra", "ret", "exit"):
                mask = self._guarded(instruction, active)
                if not mask.any():
                    continue
                now = Active(mask)
            try:
                run(now)
            except Fault as fault:
                raise fault.at(instruction.text) from None

    # ---- threads

    def run(self) -> None:
        with np.errstate(all="ignore"):
            while True:
                number, active = self._next()
                if active is None:
                    break
                self._run_block(number, active)
                self._leave(number, self.kernel.blocks[number], active)
        self.copies.check_done()

    def _next(self) -> tuple[int, Active | None]:
        """The lowest block before which threads stand that can go on, and these threads."""
        at = np.where(self.waits, self.done, self.at)
        number = int(at.min())
        while number < self.done:
            mask = at == number
            wait = self.kernel.blocks[number].wait
            if wait:
                mask = self._together(mask, wait)
            if mask.any():
                return number, Active(mask)
            number = int(np.where(at > number, at, self.done).min())
        if (self.at < self.done).any():
            self._stuck()
        return number, None

    def _together(self, mask: Array, wait: str) -> Array:
        """Those whose whole warp, or whole group of four warps, stands there."""
        size = 128 if wait == "group" else 32
        return np.repeat(mask.reshape(-1, size).all(axis=1), size)

    def _stuck(self) -> None:
        left = np.flatnonzero((self.at < self.done) & ~self.waits)
        if len(left):
            instruction = self.kernel.blocks[int(self.at[left[0]])].instructions[0]
            detail = f"lane {int(left[0])} waits for the rest of its warp"
        else:
            waiting = np.flatnonzero(self.waits)
            instruction = self.kernel.blocks[int(self.at[waiting[0]])].instructions[0]
            detail = f"lane {int(waiting[0])} waits for the rest of its block"
        raise Fault("diverged", detail).at(instruction.text)

    def _leave(self, number: int, block: Block, active: Active) -> None:
        last = block.instructions[-1]
        after = np.int32(number + 1)
        mask = active.mask
        if block.wait == "barrier":
            self._arrive(last, active)
            return
        taken = mask
        if last.guard is not None and last.name in ("bra", "ret", "exit"):
            predicate = self.machine.registers[last.guard.name]
            doubtful = self.machine.undefined.get(last.guard.name)
            if doubtful is not None and (doubtful & mask).any():
                self.undecided.branch(number, doubtful & mask)
            taken = mask & (~predicate if last.guard.negated else predicate)
        if last.name == "bra":
            assert block.target is not None
            self.at[mask] = after
            self.at[taken] = block.target
        elif last.name in ("ret", "exit"):
            self.at[mask] = after
            self.at[taken] = self.done
        else:
            self.at[mask] = after

    def _arrive(self, instruction: Instruction, active: Active) -> None:
        votes = instruction.opcode == "bar.red.or.pred"
        to, number, *rest = (
            instruction.operands if votes else (instruction.operands[0], *instruction.operands)
        )
        if not votes and instruction.opcode not in ("bar.sync", "barrier.sync.aligned", "barrier.sync"):
            raise unknown(instruction)
        # There is one barrier, for all threads, and a vote has no predicate of its own.
        if not isinstance(number, Immediate) or number.value != 0 or len(rest) != int(votes):
            raise unknown(instruction)
        comes = self._guarded(instruction, active)
        if votes:
            value = self.machine.source(rest[0], "pred")
            demand(self.machine, names_of(rest[0]), active)
            self.votes[active.index] = np.broadcast_to(np.asarray(call(value)), self.machine.lanes)[
                active.index
            ]
        self.at[active.mask & ~comes] += 1
        self.waits |= comes
        machine = self.machine
        ready = self.waits.reshape(machine.block_count, -1).all(axis=1)
        if ready.any():
            lanes = np.repeat(ready, machine.threads)
            if votes:
                any_of = self.votes.reshape(machine.block_count, -1).any(axis=1)
                machine.sink(to, "pred")(Active(lanes), np.repeat(any_of, machine.threads))
            self.at[lanes] += 1
            self.waits &= ~lanes
            machine.races.epoch[ready] += 1

    def _guarded(self, instruction: Instruction, active: Active) -> Array:
        """The lanes that execute an instruction behind a predicate; whole warps where the instruction demands it."""
        guard = instruction.guard
        if guard is None:
            return active.mask
        demand(self.machine, [guard.name], active)
        predicate = self.machine.registers[guard.name]
        mask = active.mask & (~predicate if guard.negated else predicate)
        wait = waits_for(instruction.opcode)
        if wait:
            some = mask.reshape(-1, 128 if wait == "group" else 32)
            if (some.any(axis=1) != some.all(axis=1)).any():
                raise Fault("diverged", "a predicate leaves some lanes of a warp out").at(instruction.text)
        return mask


def execute(
    kernel: Kernel,
    *,
    threads: int,
    grid: tuple[int, int, int],
    parameters: bytes,
    memory: Space,
    dynamic_shared: int = 0,
    blocks: Iterable[int] | None = None,
    counts: Any = None,
    at_once: int = 2048,
) -> None:
    """Executes the given blocks of a grid, or all of them, `at_once` threads at a time."""
    left = list(range(grid[0] * grid[1] * grid[2]) if blocks is None else blocks)
    granule = granule_of(kernel)
    each = max(1, at_once // threads)
    for first in range(0, len(left), each):
        now = np.array(left[first : first + each])
        machine = Machine(kernel, threads, now, grid, parameters, memory, dynamic_shared, granule)
        if counts is not None:
            machine.counts = counts
            counts.begin(machine)
        Execution(machine).run()
