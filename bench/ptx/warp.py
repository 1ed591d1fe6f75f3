"""Instructions of a whole warp without a matrix: shuffles, votes, reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.ptx.defined import demand, mark, names_of, results
from bench.ptx.machine import Active, Machine, call, items, unknown
from bench.ptx.parse import Instruction, Operand

Array = Any
Run = Callable[[Active], None]


def _all_lanes(machine: Machine, instruction: Instruction, mask: Operand) -> Run:
    """The check that the mask of an instruction names the whole warp, the only one that is known here."""
    given = machine.source(mask, "b32")

    def check(active: Active) -> None:
        if (active.mask & (np.asarray(call(given)) != 0xFFFFFFFF)).any():
            raise unknown(instruction)

    return check


def shuffle(machine: Machine, instruction: Instruction) -> Run:
    """shfl.sync, after the pseudo-code of the manual (PTX ISA, "Data Movement: shfl.sync")."""
    mode = instruction.parts[2]
    if instruction.parts[:2] != ["shfl", "sync"] or instruction.parts[3:] != ["b32"]:
        raise unknown(instruction)
    to, value, by, clamp, mask = instruction.operands
    check = _all_lanes(machine, instruction, mask)
    stores = [machine.sink(items(to)[0], "b32"), *(machine.sink(x, "pred") for x in items(to)[1:])]
    source, b, c = (machine.source(x, "b32") for x in (value, by, clamp))
    lane = (np.arange(machine.lanes) % 32).astype(np.int64)
    first = np.arange(machine.lanes) // 32 * 32

    def run(active: Active) -> None:
        check(active)
        values = np.broadcast_to(np.asarray(call(source)), machine.lanes)
        distance = np.asarray(call(b)).astype(np.int64) & 31
        control = np.asarray(call(c)).astype(np.int64)
        segment = (control >> 8) & 31
        limit = (lane & segment) | (control & 31 & ~segment)
        low = lane & segment
        if mode == "up":
            j, inside = lane - distance, lane - distance >= limit
        elif mode == "down":
            j, inside = lane + distance, lane + distance <= limit
        elif mode == "bfly":
            j, inside = lane ^ distance, (lane ^ distance) <= limit
        elif mode == "idx":
            j = low | (distance & ~segment)
            inside = j <= limit
        else:
            raise unknown(instruction)
        taken = first + np.where(inside, j, lane)
        found = values[taken]
        if machine.undefined:
            demand(machine, [name for x in (by, clamp, mask) for name in names_of(x)], active)
            none = np.zeros(machine.lanes, bool)
            missing = [
                machine.undefined[name][taken] for name in names_of(value) if name in machine.undefined
            ]
            for register, wrong in zip(results(instruction), (*(missing or [none]), none), strict=False):
                mark(machine, register, active, wrong & active.mask)
        for store, result in zip(stores, (found, inside), strict=False):
            store(active, result)

    return run


_REDUCTIONS: dict[str, Any] = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and,
                               "or": np.bitwise_or, "xor": np.bitwise_xor}  # fmt: skip


def reduce(machine: Machine, instruction: Instruction) -> Run:
    parts = instruction.parts
    if len(parts) != 4 or parts[1] != "sync" or parts[2] not in _REDUCTIONS:
        raise unknown(instruction)
    to, value, mask = instruction.operands
    check = _all_lanes(machine, instruction, mask)
    kind = parts[3]
    source, store, function = machine.source(value, kind), machine.sink(to, kind), _REDUCTIONS[parts[2]]

    def run(active: Active) -> None:
        check(active)
        values = np.broadcast_to(np.asarray(call(source)), machine.lanes).reshape(-1, 32)
        store(active, np.repeat(function.reduce(values, axis=1, dtype=values.dtype), 32))

    return run


def vote(machine: Machine, instruction: Instruction) -> Run:
    mode = ".".join(instruction.parts[1:])
    to, value, mask = instruction.operands
    check = _all_lanes(machine, instruction, mask)
    source = machine.source(value, "pred")
    kinds = {"sync.ballot.b32": "b32", "sync.any.pred": "pred", "sync.all.pred": "pred"}
    if mode not in kinds:
        raise unknown(instruction)
    store = machine.sink(to, kinds[mode])

    def run(active: Active) -> None:
        check(active)
        values: Array = np.broadcast_to(np.asarray(call(source)), machine.lanes).reshape(-1, 32)
        found: Array
        if mode == "sync.ballot.b32":
            found = np.packbits(values, axis=1, bitorder="little").view(np.uint32)[:, 0]
        else:
            found = values.any(axis=1) if "any" in mode else values.all(axis=1)
        store(active, np.repeat(found, 32))

    return run


def barrier(machine: Machine, instruction: Instruction) -> Run:
    """bar.warp.sync: what its warp did before is visible to all of the warp."""
    (mask,) = instruction.operands
    check = _all_lanes(machine, instruction, mask)

    def run(active: Active) -> None:
        check(active)
        machine.races.order[np.unique(active.index >> 5)] += 1

    return run


BUILDERS = {"shfl": shuffle, "redux": reduce, "vote": vote, "bar.warp.sync": barrier}
