"""Matrix instructions of a warp: mma.sync, ldmatrix and stmatrix.

Layouts are those of the PTX ISA manual, "Warp-level matrix instructions". Products are exact and summed in float64
with the accumulator; the sum is then cut to float32, the worst that a tensor core is known to do.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.ptx import rounding
from bench.ptx.defined import mark, names_of
from bench.ptx.machine import Active, Machine, items, unknown
from bench.ptx.memory import ALLOCATED, WRITABLE
from bench.ptx.parse import Instruction, Operand

Array = Any
Run = Callable[[Active], None]

LANE = np.arange(32)
GROUP, IN_GROUP = LANE >> 2, LANE & 3  # "groupID" and "threadID_in_group" of the manual


def spread(fragment: Array, rows: Array, columns: Array, shape: tuple[int, int]) -> Array:
    """(warps, *shape) of a fragment (registers, warps, 32), whose element [r, lane] lies at rows, columns [r, lane]."""
    made = np.empty((fragment.shape[1], *shape), np.float64)
    made[:, rows, columns] = fragment.transpose(1, 0, 2)
    return made


def places(at: tuple[Array, Array], shape: tuple[int, int], each: int, warps: int) -> Array:
    """(warps, *shape): where an element of a matrix lies among the registers of its warps, `each` elements in one."""
    element, lane = np.indices(at[0].shape)
    made = np.empty((warps, *shape), np.int64)
    for warp in range(warps):
        made[warp][at] = ((element // each * warps + warp) * 32 + lane) * each + element % each
    return made


def back(at: tuple[Array, Array], shape: tuple[int, int], warps: int) -> Array:
    """(registers, lanes): which element of the matrices of some warps a register of 32 bits has."""
    inside = at[0] * shape[1] + at[1]
    first = np.arange(warps)[:, None] * (shape[0] * shape[1])
    return (first + inside[:, None]).reshape(len(inside), -1)


def stacked(registers: list[Array], lanes: Any) -> Array:
    return np.array([r[lanes] for r in registers])


def doubles(bits: Array, kind: str) -> Array:
    """What a matrix instruction takes of elements of 16 bits, or of tf32 registers."""
    if kind == "f16":
        return bits.view(np.float16).astype(np.float64)
    widen = rounding.tf32 if kind == "tf32" else rounding.from_bfloat16
    return widen(bits).astype(np.float64)


@functools.cache
def _layout(kind: str, k: int, warps: int) -> tuple[Array, Array, Array, Array]:
    """Of mma.sync: where the elements of A, B and C lie among registers, and which element of D each register has."""
    (a, b), c = (operand_words if kind == "tf32" else operand_halves)(k), accumulator(8)
    each = 1 if kind == "tf32" else 2
    return (
        places(a, (16, k), each, warps),
        places(b, (k, 8), each, warps),
        places(c, (16, 8), 1, warps),
        back(c, (16, 8), warps),
    )


def accumulator(columns: int) -> tuple[Array, Array]:
    """Rows and columns of C and D, a register of float32 each: "Matrix Fragments for mma.m16n8k8" and .m16n8k16.

    c0, c1: row groupID, columns 2 threadID_in_group + {0, 1}; c2, c3: row groupID + 8. wgmma repeats that every 8
    columns ("Register Fragments and Shared Memory Matrix Layouts").
    """
    i = np.arange(columns // 2)[:, None]
    rows = GROUP + 8 * (i // 2 % 2)
    return rows, 8 * (i // 4) + 2 * IN_GROUP + i % 2


def operand_words(k: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """A and B of 32-bit elements, k = 4 or 8 ("Matrix Fragments for mma.m16n8k4", "... mma.m16n8k8", .tf32).

    a0: (groupID, threadID_in_group), a1: row + 8, a2: column + 4, a3: both.
    b0: (threadID_in_group, groupID), b1: row + 4.
    """
    i = np.arange(k // 2)[:, None]
    a = (GROUP + 8 * (i % 2), IN_GROUP + 4 * (i // 2))
    i = np.arange(k // 4)[:, None]
    return a, (IN_GROUP + 4 * i, GROUP + 0 * i)


def operand_halves(k: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """A and B of 16-bit elements, two a register, k = 8 or 16 ("Matrix Fragments for mma.m16n8k16", .f16 and .bf16).

    a0, a1: row groupID, columns 2 threadID_in_group + {0, 1}; a2, a3: row + 8; a4 to a7: columns + 8. b0, b1: rows
    2 threadID_in_group + {0, 1}, column groupID; b2, b3: rows + 8.
    """
    i = np.arange(k // 2)[:, None]
    a = (GROUP + 8 * (i // 2 % 2), 2 * IN_GROUP + i % 2 + 8 * (i // 4))
    i = np.arange(k // 4)[:, None]
    return a, (2 * IN_GROUP + i % 2 + 8 * (i // 2), GROUP + 0 * i)


def fragments(registers: list[Array], warps: int) -> Array:
    return np.stack(registers).reshape(len(registers), warps, 32)


_MMA = re.compile(r"mma\.sync\.aligned\.m16n8k(\d+)\.row\.col\.f32\.(tf32|f16|bf16)\.(tf32|f16|bf16)\.f32")


def multiply(machine: Machine, instruction: Instruction) -> Run:
    found = _MMA.fullmatch(instruction.opcode)
    if found is None or found[2] != found[3]:
        raise unknown(instruction)
    k, kind = int(found[1]), found[2]
    if k not in ((4, 8) if kind == "tf32" else (8, 16)):
        raise unknown(instruction)
    to, *sources = [machine.rows(items(x)) for x in instruction.operands]
    (a_at, b_at), c_at = (operand_words if kind == "tf32" else operand_halves)(k), accumulator(8)
    a_of, b_of, c_of = sources
    word = np.uint32 if kind == "tf32" else np.uint16

    def run(active: Active) -> None:
        lanes = slice(None) if active.full else active.index
        warps = active.warps
        a_in, b_in, c_in, d_in = _layout(kind, k, warps)
        a, b = (stacked(x, lanes).view(word).take(at) for x, at in ((a_of, a_in), (b_of, b_in)))
        product = np.matmul(doubles(a, kind), doubles(b, kind))
        product += stacked(c_of, lanes).view(np.float32).take(c_in)
        result = rounding.toward_zero(product).view(np.uint32).take(d_in)
        for i, register in enumerate(to):
            register[lanes] = result[i]
        if machine.undefined and not touched.isdisjoint(machine.undefined):
            undefined_of(active, warps, lanes)

    def undefined_of(active: Active, warps: int, lanes: Any) -> None:
        """An undefined element of A makes its row of D undefined, one of B its column."""

        def of(operand: Operand, at: tuple[Array, Array], shape: tuple[int, int]) -> Array:
            none = np.zeros(machine.lanes, bool)
            found = [machine.undefined.get(name, none)[lanes] for name in names_of(operand)]
            return (
                spread(np.repeat(fragments(found, warps), len(at[0]) // len(found), axis=0), *at, shape) != 0
            )

        d, a, b, c = instruction.operands
        wrong = of(c, c_at, (16, 8)) | of(a, a_at, (16, k)).any(axis=2)[:, :, None]
        wrong = (wrong | of(b, b_at, (k, 8)).any(axis=1)[:, None, :])[:, c_at[0], c_at[1]]
        for i, name in enumerate(names_of(d)):
            whole = np.zeros(machine.lanes, bool)
            whole[lanes] = wrong[:, i].reshape(-1)
            mark(machine, name, active, whole)

    touched = frozenset(name for x in instruction.operands for name in names_of(x))
    return run


def _rows_at(instruction: Instruction) -> tuple[int, bool]:
    parts = set(instruction.parts) - {
        "ldmatrix",
        "stmatrix",
        "sync",
        "aligned",
        "m8n8",
        "shared",
        "shared::cta",
        "b16",
    }
    counts = parts & {"x1", "x2", "x4"}
    if len(counts) != 1 or parts - counts - {"trans"}:
        raise unknown(instruction)
    return int(counts.pop()[1:]), "trans" in parts


def load(machine: Machine, instruction: Instruction) -> Run:
    """ldmatrix: lanes 8 m to 8 m + 7 have the addresses of the rows of matrix m, of which each lane gets row lane / 4,
    elements 2 (lane % 4) + {0, 1}.
    """
    count, transposed = _rows_at(instruction)
    to, at = instruction.operands
    registers, address = machine.rows(items(to)), machine.address(at)
    memory = machine.spaces["shared"]

    def run(active: Active) -> None:
        index, where = active.index, address(active)
        lanes = index
        if count < 4:
            gives = index % 32 < 8 * count
            lanes, where = index[gives], where[gives]
        found = memory.locate(lanes, where, 16, ALLOCATED)
        machine.races.on_read(lanes, found, 16)
        if machine.counts is not None:
            machine.counts.access("shared", "ldmatrix", lanes, where, 16)
        words = pairs(memory.read(found, 16).view(np.uint16)).view(np.uint32).reshape(-1, count, 32)
        for m, register in enumerate(registers):
            register[index] = words[:, m].reshape(-1)
        missing = memory.unwritten(found, 16, 2)
        if missing is not None:
            either = pairs(missing).reshape(-1, count, 8, 4, 2).any(axis=4)
            for m, name in enumerate(names_of(to)):
                whole = np.zeros(machine.lanes, bool)
                whole[index] = either[:, m, GROUP, IN_GROUP].reshape(-1)
                mark(machine, name, active, whole)

    def pairs(elements: Array) -> Array:
        tiles = elements.reshape(-1, count, 8, 8)
        return np.ascontiguousarray(tiles.swapaxes(2, 3) if transposed else tiles)

    return run


def store(machine: Machine, instruction: Instruction) -> Run:
    """stmatrix: the inverse of ldmatrix."""
    count, transposed = _rows_at(instruction)
    at, of = instruction.operands
    registers, address = machine.rows(items(of)), machine.address(at)
    memory = machine.spaces["shared"]

    def run(active: Active) -> None:
        index = active.index
        gives = index % 32 < 8 * count
        lanes, where = index[gives], address(active)[gives]
        found = memory.locate(lanes, where, 16, ALLOCATED | WRITABLE)
        machine.races.on_write(lanes, found, 16)
        if machine.counts is not None:
            machine.counts.access("shared", "stmatrix", lanes, where, 16)
        words = np.empty((len(index) // 32, count, 8, 4), np.uint32)
        for m, register in enumerate(registers):
            words[:, m, GROUP, IN_GROUP] = register[index].reshape(-1, 32)
        tiles = words.view(np.uint16)
        if transposed:
            tiles = np.ascontiguousarray(tiles.swapaxes(2, 3))
        memory.write(found, tiles.reshape(-1, 8).view(np.uint8))
        if touched.isdisjoint(machine.undefined):
            return
        missing = np.zeros(words.shape, bool)
        for m, name in enumerate(names_of(of)):
            if name in machine.undefined:
                missing[:, m, GROUP, IN_GROUP] = machine.undefined[name][index].reshape(-1, 32)
        halves = np.repeat(missing, 2, axis=3)
        if transposed:
            halves = halves.swapaxes(2, 3)
        memory.forget((found[:, None] + 2 * np.arange(8))[halves.reshape(-1, 8)], 2)

    touched = frozenset(names_of(of))
    return run


BUILDERS = {"mma": multiply, "ldmatrix": load, "stmatrix": store}
