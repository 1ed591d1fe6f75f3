"""Which registers are surely written before they are read, whatever path a thread takes, so that nobody must watch them.

A move of an undefined register is no fault, since compilers make them of values that nobody reads: the target is then
undefined too.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.ptx.machine import Active, Machine, call, items
from bench.ptx.parse import Address, Instruction, Kernel, Operand, Register

_WITHOUT_RESULT = {"st", "bra", "ret", "exit", "bar", "barrier", "red", "cp", "fence", "membar", "trap", "stmatrix"}
_CARRIES = {"mov", "selp"}  # hand an undefined value on


def _names(operand: Operand) -> list[str]:
    if isinstance(operand, Address):
        return [operand.base.name] if isinstance(operand.base, Register) else []
    return [x.name for x in items(operand) if isinstance(x, Register)]


def results(instruction: Instruction) -> list[str]:
    if instruction.name in _WITHOUT_RESULT or not instruction.operands:
        return []
    if instruction.name == "wgmma" and not instruction.opcode.startswith("wgmma.mma_async"):
        return []
    if instruction.opcode == "bar.warp.sync":
        return []
    return _names(instruction.operands[0])


def sources(instruction: Instruction) -> list[str]:
    """The registers whose values decide what the instruction does."""
    first = 1 if results(instruction) else 0
    return [name for operand in instruction.operands[first:] for name in _names(operand)]


def asynchronous(instruction: Instruction) -> bool:
    return instruction.opcode.startswith("wgmma.mma_async")


def watched(kernel: Kernel) -> set[str]:
    """The registers of which some read may come before a write; those of wgmma are pending until a wait as well."""
    bit = {name: 1 << i for i, name in enumerate(kernel.registers)}
    everything = (1 << len(bit)) - 1
    entering = [everything] * len(kernel.blocks)
    entering[0] = 0
    doubtful: set[str] = set()
    queue = [0]
    seen = {0}

    def follow(number: int, note: bool) -> int:
        known = entering[number]
        for instruction in kernel.blocks[number].instructions:
            read = sources(instruction)
            carries = instruction.name in _CARRIES
            missing = [name for name in read if not known & bit[name]]
            if note:
                doubtful.update(missing)
                guard = instruction.guard
                if guard is not None and not known & bit[guard.name]:
                    doubtful.add(guard.name)
            for name in results(instruction):
                if carries and missing:
                    if instruction.guard is None:
                        known &= ~bit[name]
                elif instruction.guard is None:
                    known |= bit[name]
        return known

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
    for number in sorted(seen):
        follow(number, True)
    for block in kernel.blocks:
        for instruction in block.instructions:
            if asynchronous(instruction):
                doubtful.update(_names(instruction.operands[0]))
    return _with_carried(kernel, doubtful)


def _with_carried(kernel: Kernel, names: set[str]) -> set[str]:
    """What is moved from a doubtful register is doubtful too."""
    moves = [(results(i), sources(i)) for b in kernel.blocks for i in b.instructions if i.name in _CARRIES]
    while True:
        more = {name for to, of in moves if names & set(of) for name in to} - names
        if not more:
            return names
        names = names | more


def watch(machine: Machine, instruction: Instruction, run: Callable[[Active], None]) -> Callable[[Active], None]:
    """`run`, and before it the check that what is read was written, where that is in doubt."""
    defined = machine.defined
    read = [name for name in dict.fromkeys(sources(instruction)) if name in defined]
    written = [name for name in results(instruction) if name in defined]
    if not read and not written:
        return run
    if asynchronous(instruction):  # schedule.py says when its results count

        def begin(active: Active) -> None:
            machine.check_defined(read, active)
            run(active)

        return begin
    if instruction.name == "mov":

        def carried(active: Active) -> None:
            run(active)
            for name in written:
                known = active.mask.copy()
                for other in read:
                    known &= defined[other]
                defined[name] = (defined[name] & ~active.mask) | known

        return carried
    if instruction.name == "selp":
        predicate = machine.source(instruction.operands[3], "pred")
        decides = [name for name in _names(instruction.operands[3]) if name in defined]

        def chosen(active: Active) -> None:
            machine.check_defined(decides, active)
            run(active)
            known = active.mask.copy()
            for side, taken in ((0, call(predicate)), (1, ~call(predicate))):
                names = _names(instruction.operands[1 + side])
                if names and names[0] in defined:
                    known &= defined[names[0]] | ~taken
            for name in written:
                defined[name] = (defined[name] & ~active.mask) | known

        return chosen

    def checked(active: Active) -> None:
        machine.check_defined(read, active)
        run(active)
        for name in written:
            defined[name] |= active.mask

    return checked
