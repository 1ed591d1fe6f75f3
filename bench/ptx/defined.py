"""What nobody has written: registers that are read first, and what comes from unwritten shared memory.

An undefined value may be computed with, as compilers and kernels do where nobody looks at the result. It is a fault
once it decides something: an address, a branch, a predicate in front of an instruction, or what global memory holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.ptx.faults import Fault
from bench.ptx.machine import Active, Machine, call, items
from bench.ptx.parse import Address, Instruction, Kernel, Operand, Register, Vector

Array = Any
Run = Callable[[Active], None]

_WITHOUT_RESULT = {
    "st",
    "bra",
    "ret",
    "exit",
    "bar",
    "barrier",
    "red",
    "cp",
    "fence",
    "membar",
    "trap",
    "stmatrix",
}
# These follow undefined values by themselves. The strict ones are no instructions of a thread on its registers: their
# operands must be defined.
_OWN = {"mma", "wgmma", "shfl"}
_STRICT = {"redux", "vote", "atom", "red", "cp", "ldmatrix", "bra", "ret", "exit"}
# These see by themselves to what they load or store. Their address must be defined: the operand with this number.
_ADDRESS = {"ld": 1, "st": 0, "stmatrix": 0}


def names_of(operand: Operand) -> list[str]:
    if isinstance(operand, Address):
        return [operand.base.name] if isinstance(operand.base, Register) else []
    return [x.name for x in items(operand) if isinstance(x, Register)]


def results(instruction: Instruction) -> list[str]:
    votes = instruction.opcode.startswith("bar.red")
    if (instruction.name in _WITHOUT_RESULT and not votes) or not instruction.operands:
        return []
    if instruction.name == "wgmma" and not instruction.opcode.startswith("wgmma.mma_async"):
        return []
    return names_of(instruction.operands[0])


def sources(instruction: Instruction) -> list[str]:
    first = 1 if results(instruction) else 0
    found = [name for operand in instruction.operands[first:] for name in names_of(operand)]
    return list(dict.fromkeys(found))


def perhaps_undefined(kernel: Kernel) -> set[str]:
    """The registers that, on some path through the kernel, are read before they are written."""
    bit = {name: 1 << i for i, name in enumerate(kernel.registers)}
    everything = (1 << len(bit)) - 1
    entering = [everything] * len(kernel.blocks)
    entering[0] = 0
    found: set[str] = set()

    def follow(number: int, note: bool) -> int:
        known = entering[number]
        for instruction in kernel.blocks[number].instructions:
            guard = instruction.guard
            if note:
                read = sources(instruction) + ([guard.name] if guard else [])
                found.update(name for name in read if not known & bit[name])
            if guard is None:
                for name in results(instruction):
                    known |= bit[name]
        return known

    queue, seen = [0], {0}
    while queue:
        number = queue.pop()
        block, leaves = kernel.blocks[number], follow(number, False)
        following = [number + 1] if block.falls else []
        if block.target is not None:
            following.append(block.target)
        for after in following:
            meets = entering[after] & leaves
            if meets != entering[after] or after not in seen:
                entering[after] = meets
                seen.add(after)
                queue.append(after)
    for number in seen:
        follow(number, True)
    return found


def demand(machine: Machine, names: list[str], active: Active) -> None:
    """Fault where one of the registers is undefined."""
    for name in names:
        missing = machine.undefined.get(name)
        if missing is not None and (missing & active.mask).any():
            lane = int(np.flatnonzero(missing & active.mask)[0])
            raise Fault("uninitialised", f"register {name} of lane {lane}")


def mark(machine: Machine, name: str, active: Active, undefined: Array) -> None:
    """Of the active lanes, those have no defined value in the register; the others have one."""
    before = machine.undefined.get(name)
    machine.parts.pop(name, None)
    now = undefined if before is None else (before & ~active.mask) | undefined
    if now.any():
        machine.undefined[name] = now
    elif before is not None:
        del machine.undefined[name]


def _union(machine: Machine, names: list[str], active: Active) -> Array:
    found = np.zeros(machine.lanes, bool)
    for name in names:
        if name in machine.undefined:
            found |= machine.undefined[name]
    return found & active.mask


def _parts(machine: Machine, name: str, count: int) -> list[Array]:
    """For each of `count` equal parts of a register, the lanes where it is undefined."""
    found = machine.parts.get(name, [])
    if len(found) == count:
        return found
    return [machine.undefined.get(name, np.zeros(machine.lanes, bool))] * count


def _mark_parts(machine: Machine, name: str, active: Active, undefined: list[Array]) -> None:
    before = _parts(machine, name, len(undefined))
    mark(machine, name, active, np.any(undefined, axis=0))
    if name in machine.undefined:
        machine.parts[name] = [(x & ~active.mask) | y for x, y in zip(before, undefined, strict=True)]


def _follow_parts(machine: Machine, instruction: Instruction, run: Run) -> Run:
    """mov from or to some registers, and arithmetic on pairs: each half of a 64-bit register is followed by itself.
    Compilers leave one undefined where they take only the other one out.
    """
    to, *given = (items(operand) for operand in instruction.operands)

    def followed(active: Active) -> None:
        run(active)
        if not machine.undefined:
            return
        if len(given[0]) > 1:
            found = [_union(machine, names_of(each), active) for each in given[0]]
        else:
            count = max(2, len(to))
            names = [name for each in given for name in names_of(each[0])]
            parts = [_parts(machine, name, count) for name in names] or [
                [np.zeros(machine.lanes, bool)] * count
            ]
            found = [np.any(each, axis=0) & active.mask for each in zip(*parts, strict=True)]
        if len(to) > 1:
            for each, missing in zip(to, found, strict=True):
                for name in names_of(each):
                    mark(machine, name, active, missing)
        else:
            _mark_parts(machine, names_of(to[0])[0], active, found)

    return followed


def follow(machine: Machine, instruction: Instruction, run: Run) -> Run:
    """`run`, which also sees to it that what it makes of undefined values is undefined."""
    undefined = machine.undefined
    read, written = sources(instruction), results(instruction)
    name = instruction.name
    if name in _OWN or not (read or written):
        return run
    packs = name == "mov" and any(isinstance(operand, Vector) for operand in instruction.operands)
    if packs or instruction.parts[-1] == "f32x2":
        return _follow_parts(machine, instruction, run)
    if name in _ADDRESS:
        read = names_of(instruction.operands[_ADDRESS[name]])
    touched = frozenset(read + written)
    strict = name in _STRICT or name in _ADDRESS
    chooses = machine.source(instruction.operands[3], "pred") if name == "selp" else None

    def bad(active: Active) -> Array:
        if chooses is None:
            return _union(machine, read, active)
        found = _union(machine, names_of(instruction.operands[3]), active)
        taken = call(chooses)
        found |= _union(machine, names_of(instruction.operands[1]), active) & taken
        return found | (_union(machine, names_of(instruction.operands[2]), active) & ~taken)

    def followed(active: Active) -> None:
        if not undefined or touched.isdisjoint(undefined):
            run(active)
        elif strict:
            demand(machine, read, active)
            for each in written:
                mark(machine, each, active, np.zeros(machine.lanes, bool))
            run(active)
        else:
            found = bad(active)
            run(active)
            for each in written:
                mark(machine, each, active, found)

    return followed
