"""Instructions of a thread on its own registers: integers and floating point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.ptx import rounding
from bench.ptx.machine import DTYPES, Active, Machine, call, unknown
from bench.ptx.parse import BITS, Immediate, Instruction, Operand

Array = Any
Run = Callable[[Active], None]
Builder = Callable[[Machine, Instruction], Run]


def elementwise(
    machine: Machine, function: Callable[..., Array], to: Operand, kind: str, *sources: Any
) -> Run:
    store = machine.sink(to, kind)
    kept = machine.stored(to, kind)
    if kept is not None and isinstance(function, np.ufunc) and all(_is_of(s, kept.dtype) for s in sources):
        return lambda active: function(*sources, out=kept, where=True if active.full else active.mask)
    if any(callable(s) for s in sources):
        return lambda active: store(active, function(*[call(s) for s in sources]))
    if len(sources) == 1:
        (a,) = sources
        return lambda active: store(active, function(a))
    if len(sources) == 2:
        a, b = sources
        return lambda active: store(active, function(a, b))
    return lambda active: store(active, function(*sources))


def _is_of(source: Any, dtype: Any) -> bool:
    return not callable(source) and source.dtype == dtype


def _wide(kind: str) -> str:
    return kind[0] + str(2 * BITS[kind])


def is_float(kind: str) -> bool:
    return kind.startswith(("f", "bf"))


def kind_of(instruction: Instruction, *allowed: str) -> str:
    """The type, after making sure that nothing else stands in the opcode but what is allowed."""
    *others, kind = instruction.parts[1:]
    if kind not in DTYPES or set(others) - set(allowed):
        raise unknown(instruction)
    return kind


# ---- integers and floats


def _divide(a: Array, b: Array) -> Array:
    b = np.where(b == 0, np.ones_like(b), b)  # the manual leaves the result to the machine
    quotient = a // b
    return quotient + ((a % b != 0) & ((a < 0) != (b < 0))).astype(quotient.dtype)


def _remainder(a: Array, b: Array) -> Array:
    return a - _divide(a, b) * b


_PLAIN: dict[str, tuple[Callable[..., Array], tuple[str, ...]]] = {
    "add": (np.add, ("rn",)),
    "sub": (np.subtract, ("rn",)),
    "neg": (np.negative, ()),
    "abs": (np.abs, ("ftz",)),
    "and": (np.bitwise_and, ()),
    "or": (np.bitwise_or, ()),
    "xor": (np.bitwise_xor, ()),
    "not": (np.invert, ()),
}


def _mixed(machine: Machine, instruction: Instruction) -> Run | None:
    """add, sub and fma of float32 whose factors, or first operand, are halves (PTX ISA, "Mixed Precision")."""
    functions: dict[str, Callable[..., Array]] = {"add": np.add, "sub": np.subtract, "fma": rounding.fma32}
    *others, to_kind, of_kind = instruction.parts
    if to_kind != "f32" or of_kind not in ("f16", "bf16") or others != [instruction.name, "rn"]:
        return None
    function = functions[instruction.name]
    widen = rounding.from_float16 if of_kind == "f16" else rounding.from_bfloat16
    to, *narrow, last = instruction.operands
    sources = [*(machine.source(x, of_kind) for x in narrow), machine.source(last, "f32")]
    return elementwise(machine, lambda *x: function(*map(widen, x[:-1]), x[-1]), to, "f32", *sources)


def plain(machine: Machine, instruction: Instruction) -> Run:
    if instruction.name in ("add", "sub") and (mixed := _mixed(machine, instruction)) is not None:
        return mixed
    function, allowed = _PLAIN[instruction.name]
    kind = kind_of(instruction, *allowed)
    if BITS.get(kind, 0) == 16 and is_float(kind):
        raise unknown(instruction)
    to, *sources = instruction.operands
    if kind == "f32x2":
        function = _both(function)
    if "ftz" in instruction.parts:
        return elementwise(
            machine, lambda a: function(_flushed(a)), to, kind, machine.source(sources[0], kind)
        )
    return elementwise(machine, function, to, kind, *[machine.source(s, kind) for s in sources])


def _both(function: Callable[..., Array]) -> Callable[..., Array]:
    """The function of two float32 in each 64-bit register."""
    return lambda *values: function(*[v.view(np.float32) for v in values]).view(np.uint64)


def _flushed(a: Array) -> Array:
    """float32 with a zero in place of a number below the normal ones."""
    return np.where(np.abs(a) < np.finfo(np.float32).tiny, np.float32(0), a)


def extreme(machine: Machine, instruction: Instruction) -> Run:
    kind = kind_of(instruction, "NaN")
    to, *sources = instruction.operands
    # Of a number and a NaN the result is the number, or with .NaN a NaN of all ones (PTX ISA, min and max).
    function: Callable[..., Array] = np.fmin if instruction.name == "min" else np.fmax
    if "NaN" in instruction.parts:
        if kind not in ("f16", "bf16", "f32"):
            raise unknown(instruction)
        number, nan = function, np.uint32(0x7FFFFFFF).view(np.float32)
        function = lambda a, b: np.where(np.isnan(a) | np.isnan(b), nan, number(a, b))  # noqa: E731
    given = [machine.source(s, kind) for s in sources]  # two or three

    def folded(first: Array, *others: Array) -> Array:
        for each in others:
            first = function(first, each)
        return first

    if kind in ("f16", "bf16"):
        widen, narrow = rounding.HALVES[kind]
        return elementwise(machine, lambda *x: narrow(folded(*map(widen, x))), to, kind, *given)
    return elementwise(machine, folded, to, kind, *given)


def divide(machine: Machine, instruction: Instruction) -> Run:
    kind = kind_of(instruction, "rn")
    to, *sources = instruction.operands
    if is_float(kind):
        function: Callable[..., Array] = np.divide
    else:
        function = _divide if instruction.name == "div" else _remainder
    return elementwise(machine, function, to, kind, *[machine.source(s, kind) for s in sources])


def _high(kind: str) -> Callable[[Array, Array], Array]:
    bits = BITS[kind]
    if bits < 64:
        wide = DTYPES[_wide(kind)]
        return lambda a, b: ((a.astype(wide) * b.astype(wide)) >> wide(bits)).astype(DTYPES[kind])

    def high64(a: Array, b: Array) -> Array:
        mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
        a, b = np.asarray(a).view(np.uint64), np.asarray(b).view(np.uint64)
        al, ah, bl, bh = a & mask, a >> half, b & mask, b >> half
        middle = ah * bl + ((al * bl) >> half)
        other = al * bh + (middle & mask)
        return ah * bh + (middle >> half) + (other >> half)

    return high64


def multiply(machine: Machine, instruction: Instruction) -> Run:
    kind = kind_of(instruction, "lo", "hi", "wide", "rn")
    to, a, b, *c = instruction.operands
    sources = [machine.source(a, kind), machine.source(b, kind)]
    if is_float(kind):
        if kind not in ("f32", "f64", "f32x2") or c:
            raise unknown(instruction)
        return elementwise(
            machine, _both(np.multiply) if kind == "f32x2" else np.multiply, to, kind, *sources
        )
    if "hi" in instruction.parts:
        if kind == "s64":
            raise unknown(instruction)
        high = _high(kind)
        added = (lambda a, b, c: high(a, b) + c) if c else high
        return elementwise(machine, added, to, kind, *sources, *[machine.source(x, kind) for x in c])
    if "wide" in instruction.parts:
        wide = _wide(kind)
        dtype = DTYPES[wide]

        def product(a: Array, b: Array, *c: Array) -> Array:
            found = a.astype(dtype) * b.astype(dtype)
            return found + c[0] if c else found

        return elementwise(machine, product, to, wide, *sources, *[machine.source(x, wide) for x in c])
    function = (lambda a, b, c: a * b + c) if c else np.multiply
    return elementwise(machine, function, to, kind, *sources, *[machine.source(x, kind) for x in c])


def fused(machine: Machine, instruction: Instruction) -> Run:
    if (mixed := _mixed(machine, instruction)) is not None:
        return mixed
    kind = kind_of(instruction, "rn")
    if kind not in ("f32", "f64", "f32x2"):
        raise unknown(instruction)
    to, *sources = instruction.operands
    function = {"f32": rounding.fma32, "f64": rounding.fma64, "f32x2": _both(rounding.fma32)}[kind]
    return elementwise(machine, function, to, kind, *[machine.source(s, kind) for s in sources])


def shift(machine: Machine, instruction: Instruction) -> Run:
    kind = kind_of(instruction)
    dtype, bits = DTYPES[kind], BITS[kind]
    to, value, amount = instruction.operands
    sources = [machine.source(value, kind), machine.source(amount, "u32")]
    function = np.left_shift if instruction.name == "shl" else np.right_shift
    # Amounts beyond the width count as the width (PTX ISA, shl and shr).
    if isinstance(amount, Immediate) and 0 <= int(amount.value) < bits:
        by = dtype(int(amount.value))
        return elementwise(machine, lambda a: function(a, by), to, kind, sources[0])

    def shifted(a: Array, n: Array) -> Array:
        inside = n < bits
        found = function(a, np.where(inside, n, bits - 1).astype(dtype))
        if kind[0] == "s" and instruction.name == "shr":
            return found
        return np.where(inside, found, dtype(0))

    return elementwise(machine, shifted, to, kind, *sources)


def extract(machine: Machine, instruction: Instruction) -> Run:
    """bfe: bits [start, start + length), filled up with zeros or with the sign."""
    kind = kind_of(instruction)
    dtype, bits = DTYPES[kind], BITS[kind]
    to, value, start, length = instruction.operands
    if not isinstance(start, Immediate) or not isinstance(length, Immediate):
        raise unknown(instruction)
    first, count = int(start.value) & 255, int(length.value) & 255
    if not count or first + count > bits:
        raise unknown(instruction)
    up, down = dtype(bits - first - count), dtype(bits - count)
    source = machine.source(value, kind)
    return elementwise(machine, lambda a: (a << up) >> down, to, kind, source)


def insert(machine: Machine, instruction: Instruction) -> Run:
    """bfi: `a` at bits [start, start + length) of `b`."""
    kind = kind_of(instruction)
    to, a, b, start, length = instruction.operands
    if not isinstance(start, Immediate) or not isinstance(length, Immediate):
        raise unknown(instruction)
    first, count = int(start.value), int(length.value)
    if first + count > BITS[kind]:
        raise unknown(instruction)
    dtype = DTYPES[kind]
    mask = dtype(((1 << count) - 1) << first)
    by = dtype(first)
    sources = machine.source(a, kind), machine.source(b, kind)
    return elementwise(machine, lambda a, b: ((a << by) & mask) | (b & ~mask), to, kind, *sources)


def permute(machine: Machine, instruction: Instruction) -> Run:
    """prmt: each byte of the result is one of the eight of b:a."""
    to, a, b, selector = instruction.operands
    if instruction.opcode != "prmt.b32":
        raise unknown(instruction)

    def permuted(a: Array, b: Array, s: Array) -> Array:
        both = a.astype(np.uint64) | (b.astype(np.uint64) << np.uint64(32))
        result = np.zeros(machine.lanes, np.uint32)
        for byte in range(4):
            nibble = (s >> np.uint32(4 * byte)) & np.uint32(15)
            found = (both >> ((nibble & np.uint32(7)).astype(np.uint64) * np.uint64(8))) & np.uint64(255)
            sign = np.where(found & np.uint64(128), np.uint32(255), np.uint32(0))
            one = np.where(nibble & np.uint32(8), sign, found.astype(np.uint32))
            result |= one << np.uint32(8 * byte)
        return result

    return elementwise(machine, permuted, to, "b32", *[machine.source(x, "b32") for x in (a, b, selector)])


def population(machine: Machine, instruction: Instruction) -> Run:
    to, value = instruction.operands
    kind = kind_of(instruction)

    def count(a: Array) -> Array:
        bytes_of = np.ascontiguousarray(a).view(np.uint8).reshape(-1, a.itemsize)
        return np.unpackbits(bytes_of, axis=1).sum(axis=1, dtype=np.uint32)

    return elementwise(machine, count, to, "u32", machine.source(value, kind))


def leading(machine: Machine, instruction: Instruction) -> Run:
    to, value = instruction.operands
    if kind_of(instruction) != "b32":
        raise unknown(instruction)
    # The exponent of a float64 is the position of the highest bit.
    function = lambda a: np.uint32(32) - np.frexp(a.astype(np.float64))[1].astype(np.uint32)  # noqa: E731
    return elementwise(machine, function, to, "u32", machine.source(value, "u32"))


BUILDERS: dict[str, Builder] = {
    **dict.fromkeys(_PLAIN, plain),
    **dict.fromkeys(("min", "max"), extreme),
    **dict.fromkeys(("div", "rem"), divide),
    **dict.fromkeys(("mul", "mad"), multiply),
    **dict.fromkeys(("shl", "shr"), shift),
    "fma": fused,
    "bfe": extract,
    "bfi": insert,
    "prmt": permute,
    "popc": population,
    "clz": leading,
}
