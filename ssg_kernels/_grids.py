"""The grids of a generation, as users give them: `sizes`."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, NamedTuple

# What `SSG`, `GuidedSampler` and `Generation` take for each scale.
Size = int | tuple[int] | tuple[int, int] | tuple[int, int, int]


class Grid(NamedTuple):
    """One scale of a generation."""

    size: tuple[int, int]
    """(h, w)."""
    frames: int
    """How many of them, guided apart, make up the L = frames * h * w tokens."""
    start: int
    """The index of the scale at which this scale's pyramid begins."""

    @property
    def tokens(self) -> int:
        """L."""
        h, w = self.size
        return self.frames * h * w

    def described(self) -> str:
        """The size and L, as messages say it."""
        h, w = self.size
        return f"size {self.size if self.frames == 1 else (self.frames, h, w)}, L = {self.tokens}"

    def __str__(self) -> str:
        h, w = self.size
        return f"{h}x{w}" if self.frames == 1 else f"{self.frames}x{h}x{w}"


def grids_of(sizes: Any) -> tuple[Grid, ...]:
    """The grids that `sizes` stands for.

    A grid that is back at the first one begins a new pyramid.

    Raises:
        ValueError: `sizes` is none; the message says what was given.
    """
    if isinstance(sizes, str) or not isinstance(sizes, Iterable):
        raise ValueError(f"SSG: sizes must hold ints or (h, w) pairs, got {sizes!r}")
    grids: list[Grid] = []
    for k, given in enumerate(sizes):
        frames, *sides = _sides_of(given)
        h, w = size = sides[0], sides[1]
        if min(frames, h, w) < 1:
            raise ValueError(
                f"SSG: sizes must be positive ints or (h, w) pairs of them, got {given!r} at scale {k + 1}; "
                "(n,) and (t, h, w) are sizes too"
            )
        start = grids[-1].start if grids else 0
        if grids:
            prev = grids[-1].size
            if h < prev[0] or w < prev[1]:
                if size != grids[0].size:
                    raise ValueError(
                        f"SSG: sizes must not shrink, got {size} after {prev} at scale {k + 1}; only a size that is "
                        f"back at the first, {grids[0].size}, begins a new pyramid"
                    )
                start = k
            elif frames != grids[-1].frames:
                raise ValueError(
                    f"SSG: sizes must keep the frames of a pyramid, got {frames} after {grids[-1].frames} "
                    f"at scale {k + 1}"
                )
        grids.append(Grid(size, frames, start))
    if not grids:
        raise ValueError("SSG: sizes must hold at least one scale, got none")
    return tuple(grids)


def _sides_of(size: Any) -> tuple[int, ...]:
    """(t, h, w), or zeros for what is no size."""
    try:
        sides = [operator.index(side) for side in (size if isinstance(size, Iterable) else (size, size))]
    except TypeError:
        return 0, 0, 0
    return (1,) * (3 - len(sides)) + tuple(sides) if 1 <= len(sides) <= 3 else (0, 0, 0)
