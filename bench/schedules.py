"""The scale schedules of the samplers that the operator must serve."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

Size = tuple[int, int]

VAR_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
VAR_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
VAR_1024 = (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)
TOKENFLOW = (1, 2, 4, 6, 8, 10, 12, 14, 16)
AUDIO = (1, 2, 4, 6, 9, 12, 16, 20, 25, 31, 37, 43, 50, 58, 66, 75)

# Infinity's schedules by aspect ratio h/w. For w/h, swap the two sides. Its 2K extensions add the last entries.
INFINITY = {
    "1.0": "1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64 84x84",
    "1.25": "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56",
    "1.333": "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54",
    "1.5": "1x1 2x2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52",
    "1.75": "1x1 2x2 3x3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48",
    "2.0": "1x1 2x2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45 120x60",
    "2.5": "1x1 2x2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40",
    "3.0": "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37",
}


def square(sides: Iterable[int]) -> list[Size]:
    return [(n, n) for n in sides]


def infinity(ratio: str) -> list[Size]:
    return [(int(h), int(w)) for h, w in (size.split("x") for size in INFINITY[ratio].split())]


def steps(sizes: list[Size]) -> list[tuple[Size, Size]]:
    """(previous size, size) for every guided scale."""
    return list(itertools.pairwise(sizes))


def every_step() -> list[tuple[Size, Size]]:
    """Every step of every schedule once, in both orientations, the smallest first."""
    found = {step for sides in (VAR_256, VAR_512, VAR_1024) for step in steps(square(sides))}
    for ratio in INFINITY:
        tall = steps(infinity(ratio))
        found |= set(tall) | {(prev[::-1], size[::-1]) for prev, size in tall}
    return sorted(found, key=lambda step: (step[1][0] * step[1][1], step))
