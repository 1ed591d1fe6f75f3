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

_JUMPS = ("bra", "ret", "exit")
_BUILDERS = {**choices.BUILDERS, "ld": access.load, "st": access.store, "atom": access.atomic,
             "red": access.atomic, **matrix.BUILDERS, **warp.BUILDERS}  # fmt: skip


def _nothing(active: Active) -> None:
    pass


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
        if machine.checks:
            for name in perhaps_undefined(machine.kernel):
                machine.undefined[name] = np.ones(machine.lanes, bool)
        self._bound: list[list[tuple[Run, Instruction, bool]] | None] = [None] * len(self.kernel.blocks)
        self.here: int | None = 0  # the block that all lanes stand before; where they do not, `at` says it
        self.at = np.zeros(machine.lanes, np.int32)  # the block that each lane stands before
        self.done = len(self.kernel.blocks)  # where a lane is that has returned
        self.waits = np.zeros(machine.lanes, bool)  # at a barrier
        self.votes = np.zeros(machine.lanes, bool)  # what they said there

    # ---- instructions

    def _bind(self, number: int) -> list[tuple[Run, Instruction, bool]]:
        """What the instructions of a block do, and whether a predicate decides on it."""
        bound = []
        for instruction in self.kernel.blocks[number].instructions:
            try:
                run = self._build(instruction)
                if self.machine.checks:
                    run = follow(self.machine, instruction, run)
            except Fault as fault:
                raise fault.at(instruction.text) from None
            if run is not _nothing:
                guarded = instruction.guard is not None and instruction.name not in _JUMPS
                bound.append((run, instruction, guarded))
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
            return _nothing  # `_leave` sees to them
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
        for run, instruction, guarded in self._bound[number] or self._bind(number):
            now = active
            if guarded:
                mask = self._guarded(instruction, active)
                if not mask.any():
                    continue
                now = Active(mask)
                if now.full:
                    now = machine.everyone
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
        if self.here is not None:
            return self.here, self.machine.everyone if self.here < self.done else None
        at = np.where(self.waits, self.done, self.at)
        number = int(at.min())
        while number < self.done:
            mask = at == number
            if mask.all():
                self.here = number
                return number, self.machine.everyone
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
        mask = active.mask
        if block.wait == "barrier":
            if self.here is not None:
                self.at[:], self.here = number, None
            self._arrive(last, active)
            return
        to, taken = number + 1, mask
        if last.name in _JUMPS:
            to = self.done if last.name != "bra" else block.target  # type: ignore[assignment]
            if last.guard is not None:
                predicate = self.machine.registers[last.guard.name]
                doubtful = self.machine.undefined.get(last.guard.name)
                if doubtful is not None and (doubtful & mask).any():
                    self.undecided.branch(number, doubtful & mask)
                taken = mask & (~predicate if last.guard.negated else predicate)
        if self.here is not None:
            going = int(np.count_nonzero(taken))
            if going in (0, len(taken)):
                self.here = to if going else number + 1
                return
            self.here = None
        self.at[mask] = number + 1
        self.at[taken] = to

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
            if machine.counts is not None:
                machine.counts.joined(ready)

    def _guarded(self, instruction: Instruction, active: Active) -> Array:
        """The lanes that execute an instruction behind a predicate; whole warps where the instruction demands it."""
        guard = instruction.guard
        if guard is None:
            return active.mask
        if self.machine.undefined:
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
    checks: bool = True,
) -> None:
    """Executes the given blocks of a grid, or all of them, `at_once` threads at a time.

    Without `checks` nobody looks for faults: for counting what a kernel does that was checked before.
    """
    left = list(range(grid[0] * grid[1] * grid[2]) if blocks is None else blocks)
    granule = granule_of(kernel)
    each = max(1, at_once // threads)
    for first in range(0, len(left), each):
        now = np.array(left[first : first + each])
        machine = Machine(kernel, threads, now, grid, parameters, memory, dynamic_shared, granule, checks)
        if counts is not None:
            machine.counts = counts
            counts.begin(machine)
        Execution(machine).run()
        if counts is not None:
            counts.end()
