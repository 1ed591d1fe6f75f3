"""Instructions of a thread on its own registers: predicates, choices, moves, conversions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.ptx import rounding
from bench.ptx.arithmetic import BUILDERS as INTEGERS_AND_FLOATS
from bench.ptx.arithmetic import Builder, Run, elementwise, is_float, kind_of
from bench.ptx.machine import DTYPES, Active, Machine, call, items, unknown
from bench.ptx.memory import LOCAL
from bench.ptx.parse import BITS, Instruction, Vector

Array = Any


# ---- predicates and choices

_ORDER: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
_COMBINE = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def _compare(name: str, floats: bool) -> Callable[[Array, Array], Array] | None:
    if not floats:
        return _ORDER.get(name)
    if name == "num":
        return lambda a, b: ~(np.isnan(a) | np.isnan(b))
    if name == "nan":
        return lambda a, b: np.isnan(a) | np.isnan(b)
    if name == "ne":  # ordered: false where one is a NaN
        return lambda a, b: (a < b) | (a > b)
    if name in _ORDER:
        return _ORDER[name]
    if name.endswith("u") and name[:-1] in _ORDER:  # unordered: true where one is a NaN
        ordered = _ORDER[name[:-1]]
        return lambda a, b: ordered(a, b) | np.isnan(a) | np.isnan(b)
    return None


def _halves_of(kind: str) -> Callable[[Array], Array]:
    widen = rounding.from_float16 if kind.startswith("f16") else rounding.from_bfloat16
    return lambda bits: widen(np.asarray(bits).astype(np.uint16))


def set_predicate(machine: Machine, instruction: Instruction) -> Run:
    name, *rest = instruction.parts[1:]
    kind = rest[-1]
    floats = is_float(kind)
    function = _compare(name, floats)
    if (
        function is None
        or kind not in DTYPES
        or len(rest) > 2
        or (len(rest) == 2 and rest[0] not in _COMBINE)
    ):
        raise unknown(instruction)
    to, a, b, *others = instruction.operands
    sources = [machine.source(a, kind), machine.source(b, kind)]
    stores = [machine.sink(x, "pred") for x in items(to)]
    if kind.endswith("x2"):
        widen = _halves_of(kind)

        def pair(active: Active) -> None:
            x, y = (np.asarray(call(s)) for s in sources)
            for half, store in enumerate(stores):
                by = np.uint32(16 * half)
                store(active, function(widen(x >> by), widen(y >> by)))

        return pair
    widen = _halves_of(kind) if kind in ("f16", "bf16") else (lambda x: x)
    combine = _COMBINE[rest[0]] if others else None
    other = machine.source(others[0], "pred") if others else None

    def compared(active: Active) -> None:
        found = function(widen(call(sources[0])), widen(call(sources[1])))
        stores[0](active, combine(found, call(other)) if combine else found)
        if len(stores) == 2:
            stores[1](active, combine(~found, call(other)) if combine else ~found)

    return compared


def select(machine: Machine, instruction: Instruction) -> Run:
    kind = kind_of(instruction)
    to, a, b, predicate = instruction.operands
    sources = machine.source(a, kind), machine.source(b, kind), machine.source(predicate, "pred")
    return elementwise(machine, lambda a, b, p: np.where(p, a, b), to, kind, *sources)


# ---- moves and conversions


def move(machine: Machine, instruction: Instruction) -> Run:
    kind = kind_of(instruction)
    to, source = instruction.operands
    if isinstance(source, Vector):
        part = f"u{BITS[kind] // len(source.items)}"
        bits = BITS[part]
        parts = [machine.source(x, part) for x in source.items]
        store = machine.sink(to, kind)
        dtype = DTYPES[f"u{BITS[kind]}"]

        def packed(active: Active) -> None:
            total = dtype(0)
            for i, each in enumerate(parts):
                total = total | (np.asarray(call(each)).astype(dtype) << dtype(bits * i))
            store(active, total.view(DTYPES[kind]))

        return packed
    if isinstance(to, Vector):
        part = f"u{BITS[kind] // len(to.items)}"
        bits, narrow = BITS[part], DTYPES[part]
        stores = [machine.sink(x, part) for x in to.items]
        whole = machine.source(source, f"u{BITS[kind]}")

        def unpacked(active: Active) -> None:
            value = np.asarray(call(whole))
            for i, store in enumerate(stores):
                store(active, (value >> value.dtype.type(bits * i)).astype(narrow))

        return unpacked
    function = np.copy if kind == "pred" else np.positive
    return elementwise(machine, function, to, kind, machine.source(source, kind))


def convert(machine: Machine, instruction: Instruction) -> Run:
    *modifiers, to_kind, from_kind = instruction.parts[1:]
    to, *sources = instruction.operands
    values = [machine.source(s, from_kind) for s in sources]
    how = tuple(modifiers)
    function = _conversion(how, to_kind, from_kind)
    if function is None:
        raise unknown(instruction)
    return elementwise(machine, function, to, to_kind, *values)


def _conversion(how: tuple[str, ...], to: str, of: str) -> Callable[..., Array] | None:
    if to not in DTYPES or of not in DTYPES:
        return None
    dtype = DTYPES[to]
    if not is_float(to) and not is_float(of):
        return (lambda a: a.astype(dtype)) if how == () and not to.endswith("x2") else None
    if of == "f32" and how == ("rn",) and to in ("f16", "bf16"):
        return rounding.to_float16 if to == "f16" else rounding.to_bfloat16
    if of == "f32" and how == ("rn",) and to in ("f16x2", "bf16x2"):  # the first operand is the upper half
        narrow = rounding.to_float16 if to == "f16x2" else rounding.to_bfloat16
        return lambda a, b: narrow(a).astype(np.uint32) << np.uint32(16) | narrow(b)
    if to == "f32" and how == () and of in ("f16", "bf16"):
        return rounding.from_float16 if of == "f16" else rounding.from_bfloat16
    if (to, of, how) == ("f64", "f32", ()):
        return lambda a: a.astype(np.float64)
    if (to, of, how) == ("f32", "f64", ("rn",)):
        return lambda a: a.astype(np.float32)
    if to in ("f32", "f64") and not is_float(of) and how == ("rn",):
        return lambda a: a.astype(dtype)
    if how == ("rzi",) and of in ("f32", "f64") and to[1:] in ("32", "64") and not is_float(to):
        return lambda a: _to_integer(a, dtype)
    return None


def _to_integer(a: Array, dtype: Any) -> Array:
    """Cut to an integer, at most and at least what it can hold; 0 for a NaN (PTX ISA, cvt)."""
    limits = np.iinfo(dtype)
    inside = (a > float(limits.min) - 1) & (a < float(limits.max))
    cut = np.where(inside, a, 0.0).astype(dtype)
    return np.where(inside | np.isnan(a), cut, np.where(a > 0, dtype(limits.max), dtype(limits.min)))


def to_space(machine: Machine, instruction: Instruction) -> Run:
    """cvta, from a state space to generic addresses or back; a generic global address is the same number."""
    change = {
        "cvta.to.global.u64": 0,
        "cvta.global.u64": 0,
        "cvta.local.u64": LOCAL,
        "cvta.to.local.u64": -LOCAL,
    }
    if instruction.opcode not in change:
        raise unknown(instruction)
    to, source = instruction.operands
    by = np.int64(change[instruction.opcode])
    return elementwise(machine, lambda a: a + by, to, "s64", machine.source(source, "s64"))


BUILDERS: dict[str, Builder] = {
    **INTEGERS_AND_FLOATS,
    "setp": set_predicate,
    "selp": select,
    "mov": move,
    "cvt": convert,
    "cvta": to_space,
}
