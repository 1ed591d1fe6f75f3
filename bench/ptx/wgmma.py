"""Matrix instructions of four warps: wgmma, whose operand B lies in shared memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.ptx import rounding
from bench.ptx.defined import demand, names_of
from bench.ptx.faults import Fault
from bench.ptx.machine import Active, Machine, call, items, unknown
from bench.ptx.matrix import accumulator, fragments, operand_words, spread
from bench.ptx.memory import ALLOCATED, WRITTEN
from bench.ptx.parse import Immediate, Instruction

Array = Any
Run = Callable[[Active], None]

_MMA = re.compile(r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k8\.f32\.tf32\.tf32")
_SWIZZLE = {0: 0, 1: 128, 2: 64, 3: 32}  # bytes of a row, by bits 62 and 63 of the descriptor

# The number of a product's group, its lanes, its registers, and the granules of shared memory that it reads.
Product = tuple[Array, Array, list[str], Array]


def addresses(descriptor: int, columns: int) -> Array:
    """Shared addresses of B's tf32 elements [column][k], k along the rows ("K-major").

    PTX ISA, "Matrix Descriptor Format" and "Shared Memory Matrix Layout": bits 0-13 start address, 16-29 leading byte
    offset, 32-45 stride byte offset, all / 16; 49-51 base offset; 62-63 swizzle. Core matrices are eight columns by 16
    bytes of k. Without swizzling, each is contiguous, the next along k lies a leading offset on, and the next along the
    columns a stride offset on. With it, eight rows of 32, 64 or 128 bytes follow one another, the next eight a stride
    offset on, and the 16-byte chunk's number is combined with the row's by exclusive-or.
    """
    start, leading, stride = (((descriptor >> bit) & 0x3FFF) << 4 for bit in (0, 16, 32))
    if (descriptor >> 49) & 7:
        raise Fault("unknown operand", "a matrix descriptor with a base offset")
    width = _SWIZZLE[descriptor >> 62]
    n, k = np.arange(columns)[:, None], np.arange(8)[None, :]
    if not width:
        return start + n // 8 * stride + n % 8 * 16 + k // 4 * leading + k % 4 * 4
    at = start + n // 8 * stride + n % 8 * width + k * 4
    return at ^ (((at >> 7) & (width // 16 - 1)) << 4)


class Groups:
    """wgmma runs on its own: its results count once their group has been waited for, and until then nobody may write
    its operands. What threads stored is visible to it only behind a fence of the asynchronous proxy.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.busy: list[Product] = []  # that nobody has waited for
        self.committed = np.zeros(machine.lanes, np.int64)

    def fence(self, active: Active) -> None:
        self.machine.races.fence(active.mask)

    def commit(self, active: Active) -> None:
        self.committed[active.index] += 1

    def wait(self, pending: int) -> Run:
        def run(active: Active) -> None:
            done: list[Product] = []
            left: list[Product] = []
            for product in self.busy:
                group, mask, _, _ = product
                over = mask & active.mask & (group < self.committed - pending)
                (done if (over == mask).all() else left).append(product)
            self.busy = left
            for _, mask, names, granules in done:
                self.machine.races.pinned[granules] -= 1
                for name in names:  # which a later product may still be adding to
                    if not any(name in others and (mask & lanes).any() for _, lanes, others, _ in left):
                        self._settle(name, mask)

        return run

    def _settle(self, name: str, mask: Array) -> None:
        machine = self.machine
        for kept in (machine.pending, machine.undefined):
            if name in kept:
                left = kept.pop(name) & ~mask
                if left.any():
                    kept[name] = left

    def multiply(self, instruction: Instruction) -> Run:
        machine = self.machine
        found = _MMA.fullmatch(instruction.opcode)
        if found is None or len(instruction.operands) != 6:
            raise unknown(instruction)
        columns = int(found[1])
        d, a, b, keep, *signs = instruction.operands
        if not all(isinstance(s, Immediate) and s.value == 1 for s in signs) or len(items(a)) != 4:
            raise unknown(instruction)
        to, of = machine.rows(items(d)), machine.rows(items(a))
        descriptor, scale = machine.source(b, "u64"), machine.source(keep, "pred")
        a_at, _ = operand_words(8)
        d_at = accumulator(columns)
        names, none = names_of(d), np.zeros(machine.lanes, bool)
        shared = machine.spaces["shared"]

        def run(active: Active) -> None:
            lanes = active.index
            warps = len(lanes) // 32
            demand(machine, names_of(a) + names_of(b) + names_of(keep), active)
            given = np.broadcast_to(np.asarray(call(descriptor)), machine.lanes)[lanes].reshape(-1, 128)
            if (given != given[:, :1]).any():
                raise Fault("diverged", "the lanes of four warps have different matrix descriptors")
            sums = active.mask & np.broadcast_to(np.asarray(call(scale)), machine.lanes)
            for name in names:
                known = machine.undefined.get(name, none) & ~machine.pending.get(name, none)
                if (known & sums).any():
                    demand(machine, [name], active)
            adds = np.broadcast_to(np.asarray(call(scale)), machine.lanes)[lanes].reshape(warps, 32)[
                :, :1, None
            ]
            matrices, granules = [], []
            for group, one in enumerate(given[:, 0]):
                at = addresses(int(one), columns).reshape(-1)
                reader = np.full(len(at), lanes[128 * group])
                where = shared.locate(reader, at, 4, ALLOCATED | WRITTEN)
                machine.races.on_read(reader, where, 4)
                machine.races.check_fenced(where)
                granules.append(machine.races.pin(where))
                words = shared.read(where, 4).view(np.uint32).reshape(columns, 8)
                matrices.append(rounding.tf32(words).astype(np.float64).T)
                if machine.counts is not None:
                    machine.counts.operand(columns * 32)
            product = spread(rounding.tf32(fragments([r[lanes] for r in of], warps)), *a_at, (16, 8))
            product = product @ np.repeat(np.stack(matrices), 4, axis=0)
            before = fragments([r[lanes] for r in to], warps).view(np.float32)
            product += np.where(adds, spread(before, *d_at, (16, columns)), 0.0)
            result = rounding.toward_zero(product)[:, d_at[0], d_at[1]]
            for i, register in enumerate(to):
                register[lanes] = result[:, i].reshape(-1).view(np.uint32)
            for name in names:
                machine.undefined[name] = machine.undefined.get(name, none) | active.mask
                machine.pending[name] = machine.pending.get(name, none) | active.mask
            for group, pinned in enumerate(granules):
                mask = np.zeros(machine.lanes, bool)
                mask[lanes[128 * group : 128 * group + 128]] = True
                self.busy.append((self.committed.copy(), mask, names, pinned))

        return run

    def build(self, instruction: Instruction) -> Run:
        if instruction.opcode == "wgmma.fence.sync.aligned":
            return lambda active: None  # orders the registers, which are in order here
        if instruction.opcode == "wgmma.commit_group.sync.aligned":
            return self.commit
        if instruction.opcode == "wgmma.wait_group.sync.aligned":
            (count,) = instruction.operands
            assert isinstance(count, Immediate)
            return self.wait(int(count.value))
        return self.multiply(instruction)
