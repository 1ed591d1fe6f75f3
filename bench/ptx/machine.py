"""The lanes of some blocks of a grid: their registers, and access to operands by type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.ptx.faults import Fault
from bench.ptx.memory import Races, Space, Unraced
from bench.ptx.parse import (
    BITS,
    Address,
    Immediate,
    Instruction,
    Kernel,
    Operand,
    Register,
    Special,
    Symbol,
    Vector,
)

Array = Any

DTYPES: dict[str, Any] = {
    "pred": np.bool_,
    "u8": np.uint8, "s8": np.int8, "b8": np.uint8,
    "u16": np.uint16, "s16": np.int16, "b16": np.uint16, "f16": np.uint16, "bf16": np.uint16,
    "u32": np.uint32, "s32": np.int32, "b32": np.uint32, "f32": np.float32, "f16x2": np.uint32, "bf16x2": np.uint32,
    "u64": np.uint64, "s64": np.int64, "b64": np.uint64, "f64": np.float64, "f32x2": np.uint64,
}  # fmt: skip
_STORED = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


class Active:
    """The lanes that execute an instruction."""

    __slots__ = ("_index", "_warps", "full", "mask")

    def __init__(self, mask: Array, full: bool | None = None) -> None:
        self.mask = mask
        self.full = bool(mask.all()) if full is None else full
        self._index: Array = None
        self._warps = -1

    @property
    def index(self) -> Array:
        if self._index is None:
            self._index = np.flatnonzero(self.mask)
        return self._index

    @property
    def warps(self) -> int:
        if self._warps < 0:
            self._warps = int(np.count_nonzero(self.mask.reshape(-1, 32).any(axis=1)))
        return self._warps


class Machine:
    """What instructions work on. Lanes are the threads of the executed blocks, block after block."""

    def __init__(
        self,
        kernel: Kernel,
        threads: int,
        blocks: Array,
        grid: tuple[int, int, int],
        parameters: bytes,
        memory: Space,
        dynamic_shared: int,
        granule: int,
        checks: bool = True,
    ) -> None:
        if threads % 32:
            raise ValueError(f"a block of {threads} threads has no whole warps")
        self.kernel, self.threads, self.grid, self.checks = kernel, threads, grid, checks
        self.block_count = len(blocks)
        self.lanes = self.block_count * threads
        self.block_index = np.repeat(np.asarray(blocks, np.int64), threads)
        self.thread_index = np.tile(np.arange(threads, dtype=np.uint32), self.block_count)
        size = kernel.shared_bytes + dynamic_shared
        shared = Space.of_parts("shared", size, self.block_count, threads)
        local = Space.of_parts("local", kernel.local_bytes, self.lanes, 1)
        given = np.frombuffer(parameters.ljust(-(-len(parameters) // 16) * 16, b"\0"), np.uint8).copy()
        param = Space("param", given, np.full(len(given), 3, np.uint8), None, 0, len(parameters))
        self.spaces = {"global": memory, "shared": shared, "local": local, "param": param}
        for space in self.spaces.values():
            space.checks = checks
        kind = Races if checks else Unraced
        self.races = kind(len(shared.data), granule, self.block_count, threads)
        self.everyone = Active(np.ones(self.lanes, bool), True)
        self.registers: dict[str, Array] = {
            name: np.zeros(self.lanes, _STORED[bits]) for name, bits in kernel.registers.items()
        }
        self.undefined: dict[str, Array] = {}  # registers, and the lanes that have no defined value there
        self.parts: dict[
            str, list[Array]
        ] = {}  # the same for each part of a register that was packed from some
        self.pending: dict[
            str, Array
        ] = {}  # those of them whose value a matrix instruction is still computing
        self.counts: Any = None

    # ---- operands

    def source(self, operand: Operand, kind: str) -> Any:
        """An array or a number of that type, which is the operand's as long as the machine lives; or a function."""
        dtype = DTYPES[kind]
        if isinstance(operand, Register):
            stored = self.registers[operand.name]
            if operand.negated:
                return lambda: ~stored
            if stored.dtype == np.bool_ or stored.itemsize == np.dtype(dtype).itemsize:
                return stored.view(dtype)
            if stored.itemsize > np.dtype(dtype).itemsize:
                return lambda: stored.astype(f"u{np.dtype(dtype).itemsize}").view(dtype)
            raise Fault("unknown operand", f"{operand.name} is narrower than .{kind}")
        if isinstance(operand, Immediate):
            if kind == "pred":
                return np.bool_(operand.value != 0)
            if operand.is_bits and kind in ("f32", "f64"):
                unsigned = _STORED[BITS[kind]]
                return np.array(operand.value % (1 << BITS[kind]), unsigned).view(dtype)[()]
            if not operand.is_bits and np.dtype(dtype).kind in "ui":
                bits = np.float32 if np.dtype(dtype).itemsize == 4 else np.float64
                return np.array(operand.value, bits).view(dtype)[()]
            if operand.is_bits:
                size = 8 * np.dtype(dtype).itemsize
                return np.array(operand.value % (1 << size), _STORED[size]).view(dtype)[()]
            return dtype(operand.value)
        if isinstance(operand, Special):
            return self._special(operand.name).astype(dtype)
        if isinstance(operand, Symbol):
            return dtype(self.address_of(operand.name))
        raise Fault("unknown operand", str(operand))

    def address_of(self, name: str) -> int:
        for variable in self.kernel.parameters:
            if variable.name == name:
                return variable.offset
        for variables in (self.kernel.shared, self.kernel.local):
            if name in variables:
                return variables[name].offset
        raise Fault("unknown operand", name)

    def _special(self, name: str) -> Array:
        full = np.full(self.lanes, 0, np.uint32)
        x, y, _ = self.grid
        values = {
            "%tid.x": self.thread_index,
            "%tid.y": full,
            "%tid.z": full,
            "%ntid.x": full + np.uint32(self.threads),
            "%ntid.y": full + np.uint32(1),
            "%ntid.z": full + np.uint32(1),
            "%ctaid.x": (self.block_index % x).astype(np.uint32),
            "%ctaid.y": (self.block_index // x % y).astype(np.uint32),
            "%ctaid.z": (self.block_index // (x * y)).astype(np.uint32),
            "%nctaid.x": full + np.uint32(self.grid[0]),
            "%nctaid.y": full + np.uint32(self.grid[1]),
            "%nctaid.z": full + np.uint32(self.grid[2]),
            "%laneid": self.thread_index % np.uint32(32),
        }
        if name not in values:
            raise Fault("unknown operand", name)
        return values[name]

    def address(self, operand: Operand) -> Callable[[Active], Array]:
        """The address of each active lane."""
        if not isinstance(operand, Address):
            raise Fault("unknown operand", str(operand))
        offset = np.int64(operand.offset)
        if isinstance(operand.base, Register):
            base = self.registers[operand.base.name]
            return lambda active: base[active.index].astype(np.int64) + offset
        start = 0 if operand.base is None else self.address_of(operand.base.name)
        return lambda active: np.full(len(active.index), start + offset, np.int64)

    # ---- results

    def stored(self, operand: Operand, kind: str) -> Array | None:
        """The register's array, where it is one of that very type."""
        if (
            isinstance(operand, Register)
            and self.registers[operand.name].itemsize == np.dtype(DTYPES[kind]).itemsize
        ):
            return self.registers[operand.name].view(DTYPES[kind])
        return None

    def sink(self, operand: Operand, kind: str) -> Callable[[Active, Array], None]:
        """Stores a value of all lanes, of that type, for the active ones."""
        if isinstance(operand, Symbol) and operand.name == "_":
            return lambda active, value: None
        if not isinstance(operand, Register):
            raise Fault("unknown operand", str(operand))
        dtype = np.dtype(DTYPES[kind])
        stored = self.registers[operand.name]
        if stored.dtype != np.bool_ and stored.itemsize > dtype.itemsize:
            # Signed values fill the wider register with their sign, others with zeros.
            stored = stored.view(f"{'i' if dtype.kind == 'i' else 'u'}{stored.itemsize}")
        elif stored.itemsize == dtype.itemsize:
            stored = stored.view(dtype)
        else:
            raise Fault("unknown operand", f"{operand.name} is narrower than .{kind}")

        def store(active: Active, value: Array) -> None:
            if active.full:
                stored[...] = value
            else:
                np.copyto(stored, value, where=active.mask)

        return store

    def rows(self, operands: list[Operand]) -> list[Array]:
        """The 32-bit registers of a fragment."""
        found = []
        for operand in operands:
            if not isinstance(operand, Register) or self.registers[operand.name].dtype != np.uint32:
                raise Fault("unknown operand", f"{operand} is not a 32-bit register")
            found.append(self.registers[operand.name])
        return found


def items(operand: Operand) -> list[Operand]:
    return list(operand.items) if isinstance(operand, Vector) else [operand]


def call(value: Any) -> Array:
    return value() if callable(value) else value


def unknown(instruction: Instruction) -> Fault:
    return Fault("unknown instruction", instruction.opcode)
