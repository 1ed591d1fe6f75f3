"""Branches on undefined values.

They are no fault where both ways only compute: what either way writes is undefined then.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.ptx.defined import mark, results
from bench.ptx.faults import Fault
from bench.ptx.machine import Active, Machine
from bench.ptx.parse import Kernel

Array = Any

_ACTS = {"st", "atom", "red", "cp", "ret", "exit"}  # what is seen outside of the thread


def followers(kernel: Kernel, number: int) -> list[int]:
    block = kernel.blocks[number]
    found = [number + 1] if block.falls else []
    return found if block.target is None else [*found, block.target]


class Undecided:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.owed: list[tuple[int, Array, set[str]]] = []  # where both ways meet, lanes, registers
        self._meeting: list[int] | None = None

    def branch(self, number: int, lanes: Array) -> None:
        """These lanes branch at the end of a block, nobody knows where to."""
        kernel = self.machine.kernel
        meets = self._meet(number)
        region: set[int] = set()
        queue = [b for b in followers(kernel, number) if b != meets]
        while queue:
            each = queue.pop()
            if each in region:
                continue
            region.add(each)
            queue += [b for b in followers(kernel, each) if b != meets]
        written: set[str] = set()
        for each in region:
            block = kernel.blocks[each]
            if block.wait or any(i.name in _ACTS for i in block.instructions):
                text = kernel.blocks[number].instructions[-1].text
                raise Fault("uninitialised", f"lane {int(np.flatnonzero(lanes)[0])} branches on it").at(text)
            for instruction in block.instructions:
                written.update(results(instruction))
        self.owed.append((meets, lanes, written))

    def arrive(self, number: int, active: Active) -> None:
        """Lanes come to the block; for some of them, two ways may meet there."""
        left = []
        for meets, lanes, names in self.owed:
            here = lanes & active.mask
            if meets == number and here.any():
                for name in names:
                    before = self.machine.undefined.get(name)
                    mark(
                        self.machine,
                        name,
                        Active(here, False),
                        here if before is None else here | (before & here),
                    )
                lanes = lanes & ~here
            if lanes.any():
                left.append((meets, lanes, names))
        self.owed = left

    def _meet(self, number: int) -> int:
        """The first block that every way from this one leads through (its immediate post-dominator)."""
        if self._meeting is None:
            self._meeting = _post_dominators(self.machine.kernel)
        return self._meeting[number]


def _post_dominators(kernel: Kernel) -> list[int]:
    end = len(kernel.blocks)
    everything = (1 << (end + 1)) - 1
    ways = [followers(kernel, number) or [end] for number in range(end)]
    ways = [[min(b, end) for b in each] for each in ways]
    sets = [everything] * end + [1 << end]
    changed = True
    while changed:
        changed = False
        for number in reversed(range(end)):
            meets = everything
            for after in ways[number]:
                meets &= sets[after]
            meets |= 1 << number
            if meets != sets[number]:
                sets[number], changed = meets, True
    found = []
    for number in range(end):
        others = [b for b in range(end + 1) if b != number and sets[number] >> b & 1]
        # The nearest is the one that all the others come behind.
        found.append(max(others, key=lambda b: sets[b].bit_count()))
    return found
