"""Matrix instructions of a warp: mma.sync, ldmatrix and stmatrix.

Layouts are those of the PTX ISA manual, "Warp-level matrix instructions". Products are exact and summed in float64
with the accumulator; the sum is then cut to float32, the worst that a tensor core is known to do.
"""

from __future__ import annotations

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


def halves(bits: Array, kind: str) -> Array:
    """Elements of a fragment of two halves a register, the lower one first."""
    widen = rounding.from_float16 if kind == "f16" else rounding.from_bfloat16
    both = np.stack([bits & np.uint32(0xFFFF), bits >> np.uint32(16)], axis=1).astype(np.uint16)
    return widen(both.reshape(-1, *bits.shape[1:]))


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
    widen = rounding.tf32 if kind == "tf32" else (lambda bits: halves(bits, kind))
    a_of, b_of, c_of = sources
    all_warps = machine.lanes // 32

    def run(active: Active) -> None:
        lanes = slice(None) if active.full else active.index
        warps = all_warps if active.full else len(active.index) // 32
        a, b, c = (fragments([r[lanes] for r in x], warps) for x in (a_of, b_of, c_of))
        product = spread(widen(a), *a_at, (16, k)) @ spread(widen(b), *b_at, (k, 8))
        product += spread(c.view(np.float32), *c_at, (16, 8))
        result = rounding.toward_zero(product)[:, c_at[0], c_at[1]]
        for i, register in enumerate(to):
            register[lanes] = result[:, i].reshape(-1).view(np.uint32)
        if not touched.isdisjoint(machine.undefined):
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
        index = active.index
        gives = index % 32 < 8 * count
        lanes, where = index[gives], address(active)[gives]
        found = memory.locate(lanes, where, 16, ALLOCATED)
        machine.races.on_read(lanes, found, 16)
        if machine.counts is not None:
            machine.counts.access("shared", "ldmatrix", lanes, where, 16)
        words = pairs(memory.read(found, 16).view(np.uint16)).view(
            np.uint32
        )  # (warps, count, 8 rows, 4 words)
        for m, register in enumerate(registers):
            register[index] = words[:, m, GROUP, IN_GROUP].reshape(-1)
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
