"""Loads, stores, atomic additions and asynchronous copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.ptx.defined import demand, mark, names_of
from bench.ptx.faults import Fault
from bench.ptx.machine import DTYPES, Active, Machine, call, items, unknown
from bench.ptx.memory import ALLOCATED, LOCAL, WRITABLE, WRITTEN, Space
from bench.ptx.parse import BITS, Immediate, Instruction

Array = Any
Run = Callable[[Active], None]

_CACHING = {"ca", "cg", "cs", "nc", "volatile", "relaxed", "weak", "gpu", "L1::no_allocate", "L1::evict_last",
            "L1::evict_first", "L1::evict_normal", "L2::128B", "L2::64B", "L2::256B"}  # fmt: skip
_SPACES = ("global", "shared", "local", "param")


def _form(instruction: Instruction) -> tuple[str, int, str]:
    """State space, number of elements, type."""
    *others, kind = instruction.parts[1:]
    others = [x.removesuffix("::cta") for x in others if x.split("::")[0] != "L2"]
    spaces = [x for x in others if x in _SPACES]
    vectors = [x for x in others if x in ("v2", "v4", "v8")]
    rest = set(others) - set(spaces) - set(vectors) - _CACHING
    if len(spaces) > 1 or kind not in DTYPES or rest:
        raise unknown(instruction)
    return spaces[0] if spaces else "generic", int(vectors[0][1:]) if vectors else 1, kind


def _memory(machine: Machine, space: str, where: Array) -> tuple[Space, Array]:
    """The state space, and the addresses there; a generic address is one of global or of local memory."""
    if space != "generic":
        return machine.spaces[space], where
    if len(where) and int(where[0]) >= LOCAL:
        return machine.spaces["local"], where - LOCAL
    return machine.spaces["global"], where


def load(machine: Machine, instruction: Instruction) -> Run:
    space, count, kind = _form(instruction)
    to, at = instruction.operands
    width = count * BITS[kind] // 8
    if width > 16:
        raise unknown(instruction)
    address = machine.address(at)
    stores = [machine.sink(x, kind) for x in items(to)]
    dtype = np.dtype(DTYPES[kind])
    races = machine.races if space == "shared" else None
    needed = ALLOCATED if space == "shared" else ALLOCATED | WRITTEN
    names = names_of(to)

    def run(active: Active) -> None:
        lanes, where = active.index, address(active)
        memory, where = _memory(machine, space, where)
        found = memory.locate(lanes, where, width, needed)
        if races is not None:
            races.on_read(lanes, found, width)
        if machine.counts is not None:
            machine.counts.access(memory.name, "ld", lanes, where, width, instruction)
        missing = None if races is None else memory.unwritten(found, width, dtype.itemsize)
        if missing is not None:
            for i, name in enumerate(names):
                whole = np.zeros(machine.lanes, bool)
                whole[lanes] = missing[:, i]
                mark(machine, name, active, whole)
        values = memory.read(found, width).view(dtype)
        for i, store in enumerate(stores):
            if active.full:
                store(active, values[:, i])
            else:
                whole = np.zeros(machine.lanes, dtype)
                whole[lanes] = values[:, i]
                store(active, whole)

    return run


def store(machine: Machine, instruction: Instruction) -> Run:
    space, count, kind = _form(instruction)
    at, value = instruction.operands
    width = count * BITS[kind] // 8
    if width > 16 or space == "param":
        raise unknown(instruction)
    address = machine.address(at)
    sources = [machine.source(x, kind) for x in items(value)]
    names = [names_of(x) for x in items(value)]
    dtype = np.dtype(DTYPES[kind])
    races = machine.races if space == "shared" else None

    def run(active: Active) -> None:
        lanes, where = active.index, address(active)
        memory, where = _memory(machine, space, where)
        found = memory.locate(lanes, where, width, ALLOCATED | WRITABLE)
        values = np.empty((len(lanes), len(sources)), dtype)
        for i, source in enumerate(sources):
            each = np.asarray(call(source))
            values[:, i] = each[lanes] if each.ndim else each
        given = values.view(np.uint8)
        at_once = False
        if races is not None:
            same = (memory.read(found, width) == given).all(axis=1)
            at_once = races.on_write(lanes, found, width, same)
        if machine.counts is not None:
            machine.counts.access(memory.name, "st", lanes, where, width)
        memory.write(found, given)
        if at_once and (memory.read(found, width) != given).any():
            raise Fault("race", "lanes write different values to one place at once")
        if machine.undefined:
            for i, name in enumerate(names):
                if not name or name[0] not in machine.undefined:
                    continue
                if memory.name == "global":
                    demand(machine, name, active)
                missing = machine.undefined[name[0]][lanes]
                memory.forget(found[missing] + i * dtype.itemsize, dtype.itemsize)

    return run


def atomic(machine: Machine, instruction: Instruction) -> Run:
    """atom and red: additions of 32 bits in shared memory, one lane after the other."""
    *others, kind = instruction.parts[1:]
    if set(others) - {"shared", "add", "relaxed", "cta"} or {"shared", "add"} - set(others) or kind != "u32":
        raise unknown(instruction)
    *to, at, value = instruction.operands  # red has no result
    memory, address = machine.spaces["shared"], machine.address(at)
    source = machine.source(value, kind)
    keep = [machine.sink(x, kind) for x in to]

    def run(active: Active) -> None:
        lanes, where = active.index, address(active)
        found = memory.locate(lanes, where, 4, ALLOCATED | WRITABLE | WRITTEN)
        machine.races.on_write(lanes, found, 4, atomic=True)
        if machine.counts is not None:
            machine.counts.access("shared", "atom", lanes, where, 4)
        each = np.asarray(call(source))
        added = np.broadcast_to(each, machine.lanes)[lanes].astype(np.uint64)
        old = memory.read(found, 4).view(np.uint32)[:, 0].astype(np.uint64)
        order = np.argsort(found, kind="stable")
        first = np.r_[True, np.diff(found[order]) != 0]
        before = np.cumsum(added[order]) - added[order]
        before -= np.maximum.accumulate(np.where(first, before, 0))
        whole = np.zeros(machine.lanes, np.uint32)
        whole[lanes[order]] = (old[order] + before).astype(np.uint32)
        sums = (old[order] + before + added[order]).astype(np.uint32)
        last = np.r_[first[1:], True]
        memory.write(found[order][last], sums[last][:, None].view(np.uint8))
        for store in keep:
            store(active, whole)

    return run


class Copies:
    """cp.async: what a thread has copied counts as written once the thread has waited for its group."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.groups = np.zeros(machine.lanes, np.int64)  # committed
        self.waiting: list[tuple[Array, Array, Array, Array]] = []  # lanes, groups, positions, bytes

    def copy(self, instruction: Instruction) -> Run:
        machine = self.machine
        to, of, size, *ignored = instruction.operands
        allowed = {"async", "ca", "cg", "shared", "shared::cta", "global", "L2::128B"}
        if set(instruction.parts[1:]) - allowed or not isinstance(size, Immediate):
            raise unknown(instruction)
        width = int(size.value)
        real = machine.source(ignored[0], "u32") if ignored else np.uint32(width)
        shared, memory = machine.spaces["shared"], machine.spaces["global"]
        target, origin = machine.address(to), machine.address(of)

        def run(active: Active) -> None:
            lanes, where, source = active.index, target(active), origin(active)
            sizes = np.broadcast_to(np.asarray(call(real)), machine.lanes)[lanes]
            if not np.isin(sizes, (0, width)).all():
                raise unknown(instruction)
            found = shared.locate(lanes, where, width, ALLOCATED | WRITABLE)
            if machine.races.on_write(lanes, found, width):
                raise Fault("race", "lanes copy to one place at once")
            reads = sizes > 0
            values = np.zeros((len(lanes), width), np.uint8)
            if reads.any():
                at = memory.locate(lanes[reads], source[reads], width, ALLOCATED | WRITTEN)
                values[reads] = memory.read(at, width)
            if machine.counts is not None:
                machine.counts.access("global", "cp", lanes[reads], source[reads], width, instruction)
                machine.counts.access("shared", "cp", lanes, where, width)
            shared.forget(found, width)
            self.waiting.append((lanes, self.groups[lanes].copy(), found, values))

        return run

    def commit(self, active: Active) -> None:
        self.groups[active.index] += 1

    def wait(self, pending: int) -> Run:
        def run(active: Active) -> None:
            left = []
            for lanes, groups, at, values in self.waiting:
                done = active.mask[lanes] & (groups < self.groups[lanes] - pending)
                if done.any():
                    width = values.shape[1]
                    self.machine.races.on_write(lanes[done], at[done], width)
                    self.machine.spaces["shared"].write(at[done], values[done])
                if not done.all():
                    left.append((lanes[~done], groups[~done], at[~done], values[~done]))
            self.waiting = left

        return run

    def build(self, instruction: Instruction) -> Run:
        if instruction.opcode == "cp.async.commit_group":
            return self.commit
        if instruction.opcode == "cp.async.wait_group":
            (count,) = instruction.operands
            assert isinstance(count, Immediate)
            return self.wait(int(count.value))
        if instruction.opcode == "cp.async.wait_all":
            commit, wait = self.commit, self.wait(0)
            return lambda active: (commit(active), wait(active))[1]
        return self.copy(instruction)

    def check_done(self) -> None:
        if self.waiting:
            raise Fault("uninitialised", "an asynchronous copy was never waited for")
