"""Numbers as users give them: one for all scales, or one for each scale in any kind of sequence."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

_T = TypeVar("_T")


def items_of(value: Any) -> list[Any] | None:
    """The items of a list, tuple, range, array, 1-d tensor or other iterable; None for a single value.

    A string is a single value, and so are arrays and tensors without dimensions.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        return None
    return list(value)


def as_float(value: object) -> float | None:
    """The float that `value` is; None where it is no number. A string is none."""
    if isinstance(value, str | bytes | bytearray | memoryview):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def is_finite(number: float) -> bool:
    """Whether the number is finite. `math.isfinite` does not take the symbolic floats of a compiler."""
    return -math.inf < number < math.inf


def as_finite(value: object) -> float | None:
    """The finite float that `value` is; None where it is none."""
    number = as_float(value)
    return number if number is not None and is_finite(number) else None


def as_integer(value: Any) -> int | None:
    """The int that `value` is; None where it is none."""
    try:
        return operator.index(value)
    except TypeError:
        return None


def per_scale(
    name: str, expected: str, value: Any, count: int, convert: Callable[[Any], _T | None]
) -> tuple[_T, ...]:
    """One value for each of `count` scales, from one for all or from a sequence.

    Args:
        name: of the class and the argument, for messages.
        expected: what the values are, for messages ("finite numbers").
        value: one value, or `count` of them.
        count: how many scales there are.
        convert: gives None where an item is not what is expected.

    Raises:
        ValueError: the count is another, or an item is not what is expected.
    """
    items = items_of(value)
    given = [value] * count if items is None and as_float(value) is not None else items
    if given is None or len(given) != count:
        held = repr(value) if given is None else f"{len(given)} of them"
        raise ValueError(f"{name} must be one of the {expected} or hold {count}, one per scale, got {held}")
    converted: list[_T] = []
    for k, item in enumerate(given):
        done = convert(item)
        if done is None:
            where = "" if items is None else f" at scale {k + 1}"
            raise ValueError(f"{name} must hold {expected}, got {item!r}{where}")
        converted.append(done)
    return tuple(converted)
