"""Matrix instructions of four warps: wgmma, whose operand B, and at times A, lies in shared memory."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.ptx import rounding
from bench.ptx.defined import demand, names_of
from bench.ptx.faults import Fault
from bench.ptx.machine import Active, Machine, call, items, unknown
from bench.ptx.matrix import accumulator, back, doubles, operand_halves, operand_words, places, stacked
from bench.ptx.memory import ALLOCATED, WRITTEN
from bench.ptx.parse import Immediate, Instruction, Vector

Array = Any
Run = Callable[[Active], None]

_MMA = re.compile(r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k(\d+)\.f32\.(tf32|f16|bf16)\.(tf32|f16|bf16)")
_K = {"tf32": 8, "f16": 16, "bf16": 16}
_SWIZZLE = {0: 0, 1: 128, 2: 64, 3: 32}  # bytes of a row, by bits 62 and 63 of the descriptor


@functools.cache
def _layout(kind: str, columns: int, warps: int) -> tuple[Array, Array, Array]:
    """Where the elements of A and C lie among registers, and which element of D each register has."""
    a = (operand_words(8) if kind == "tf32" else operand_halves(16))[0]
    d, shape = accumulator(columns), (16, columns)
    return (
        places(a, (16, _K[kind]), 1 if kind == "tf32" else 2, warps),
        places(d, shape, 1, warps),
        back(d, shape, warps),
    )


# The number of a product's group, its lanes, its registers, and the granules of shared memory that it reads.
Product = tuple[Array, Array, list[str], Array]


@functools.lru_cache(1 << 10)
def addresses(descriptor: int, rows: int, kind: str = "tf32", along_rows: bool = False) -> Array:
    """Shared addresses of an operand's elements [row][k]: of A, or of B with its columns as rows.

    PTX ISA, "Matrix Descriptor Format" and "Shared Memory Matrix Layout": bits 0-13 start address, 16-29 leading byte
    offset, 32-45 stride byte offset, all / 16; 49-51 base offset; 62-63 swizzle. Runs of 32, 64 or 128 bytes, eight of
    them one after the other, are swizzled: the number of the 16-byte chunk is combined with the run's by exclusive-or.

    The runs lie along k ("K-major"): the next eight rows follow a stride offset on. Without swizzling the runs are 16
    bytes, and the next along k lies a leading offset on. Elements of 16 bits may also lie along the rows ("MN-major"):
    the next eight k follow a stride offset on, and the next rows a leading offset on. Without swizzling the two offsets
    change places.
    """
    start, leading, stride = (((descriptor >> bit) & 0x3FFF) << 4 for bit in (0, 16, 32))
    if (descriptor >> 49) & 7:
        raise Fault("unknown operand", "a matrix descriptor with a base offset")
    width, item = _SWIZZLE[descriptor >> 62], 32 // _K[kind]
    n, k = np.arange(rows)[:, None], np.arange(_K[kind])[None, :]
    if not width and along_rows:
        return start + n // 8 * stride + n % 8 * item + k // 8 * leading + k % 8 * 16
    if not width:
        return start + n // 8 * stride + n % 8 * 16 + k * item // 16 * leading + k * item % 16
    if along_rows:
        at = start + n * item // width * leading + n * item % width + k // 8 * stride + k % 8 * width
    else:
        at = start + n // 8 * stride + n % 8 * width + k * item
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

    def _operand(
        self, descriptors: Array, lanes: Array, rows: int, kind: str, along: bool
    ) -> tuple[Array, list[Array]]:
        """The matrices [row][k] of each group of four warps, and the granules of shared memory that they fill."""
        shared, races = self.machine.spaces["shared"], self.machine.races
        item = 32 // _K[kind]
        matrices, granules = [], []
        for group, one in enumerate(descriptors):
            at = addresses(int(one), rows, kind, along).reshape(-1)
            reader = np.full(len(at), lanes[128 * group])
            where = shared.locate(reader, at, item, ALLOCATED | WRITTEN)
            races.on_read(reader, where, item)
            races.check_fenced(where)
            granules.append(races.pin(where))
            bits = shared.read(where, item).view(np.uint32 if item == 4 else np.uint16)
            matrices.append(doubles(bits.reshape(rows, _K[kind]), kind))
            if self.machine.counts is not None:
                self.machine.counts.operand(rows * _K[kind] * item)
        return np.stack(matrices), granules

    def multiply(self, instruction: Instruction) -> Run:
        machine = self.machine
        found = _MMA.fullmatch(instruction.opcode)
        if found is None or found[3] != found[4] or int(found[2]) != _K[found[3]]:
            raise unknown(instruction)
        columns, kind, k = int(found[1]), found[3], int(found[2])
        d, a, b, keep, *rest = instruction.operands
        in_registers = isinstance(a, Vector)
        signs, ways = rest[:2], rest[2:]
        if not all(isinstance(s, Immediate) and s.value == 1 for s in signs) or not all(
            isinstance(w, Immediate) for w in ways
        ):
            raise unknown(instruction)
        along = [bool(w.value) for w in ways if isinstance(w, Immediate)]
        if len(along) != (0 if kind == "tf32" else 1 if in_registers else 2):
            raise unknown(instruction)
        a_along, b_along = [False] * (2 - len(along)) + along
        if in_registers and len(items(a)) != 4:
            raise unknown(instruction)
        to, scale = machine.rows(items(d)), machine.source(keep, "pred")
        of = machine.rows(items(a)) if in_registers else []
        descriptors = {"b": machine.source(b, "u64")}
        if not in_registers:
            descriptors["a"] = machine.source(a, "u64")
        word = np.uint32 if kind == "tf32" else np.uint16
        names, none = names_of(d), np.zeros(machine.lanes, bool)

        def same_in_group(source: Any, lanes: Array) -> Array:
            given = np.broadcast_to(np.asarray(call(source)), machine.lanes)[lanes].reshape(-1, 128)
            if (given != given[:, :1]).any():
                raise Fault("diverged", "the lanes of four warps have different matrix descriptors")
            return given[:, 0]

        def run(active: Active) -> None:
            lanes, warps = active.index, active.warps
            a_in, d_in, d_out = _layout(kind, columns, warps)
            if machine.checks:
                check(active)
            adds = np.broadcast_to(np.asarray(call(scale)), machine.lanes)[lanes].reshape(warps, 32)[
                :, :1, None
            ]
            right, granules = self._operand(
                same_in_group(descriptors["b"], lanes), lanes, columns, kind, b_along
            )
            if in_registers:
                left = doubles(stacked(of, lanes).view(word).take(a_in), kind)
            else:
                left, more = self._operand(same_in_group(descriptors["a"], lanes), lanes, 64, kind, a_along)
                left = left.reshape(warps, 16, k)
                granules = [np.union1d(x, y) for x, y in zip(granules, more, strict=True)]
            product = np.matmul(left, np.repeat(right.swapaxes(1, 2), 4, axis=0))
            product += np.where(adds, stacked(to, lanes).view(np.float32).take(d_in), 0.0)
            result = rounding.toward_zero(product).view(np.uint32).take(d_out)
            for i, register in enumerate(to):
                register[lanes] = result[i]
            if machine.checks:
                note(active, lanes, granules)

        def check(active: Active) -> None:
            demand(machine, names_of(a) + names_of(b) + names_of(keep), active)
            sums = active.mask & np.broadcast_to(np.asarray(call(scale)), machine.lanes)
            for name in names:
                known = machine.undefined.get(name, none) & ~machine.pending.get(name, none)
                if (known & sums).any():
                    demand(machine, [name], active)

        def note(active: Active, lanes: Array, granules: list[Array]) -> None:
            """The results are not there yet, and the operands are still read."""
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
