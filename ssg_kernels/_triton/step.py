"""A step, and how it may be launched."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ssg_kernels._triton.factors import is_symmetric, term_count

Size = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """The step that a plan is made for. `sources` is 0 without current logits (P x alone), else 1, or 2 with cfg."""

    size: Size
    prev_size: Size
    batch: int
    vocabulary: int
    itemsize: int
    sources: int = 1
    prior: str = "dse"
    interpolation: str = "bilinear"
    transpose: bool = False
    aligned: bool = True  # whether rows of the previous logits are read 16 bytes at a time

    @property
    def outputs(self) -> Size:
        return self.prev_size if self.transpose else self.size

    @property
    def inputs(self) -> Size:
        return self.size if self.transpose else self.prev_size

    @property
    def is_symmetric(self) -> bool:
        """Whether the prior maps even to even and odd to odd along both axes."""
        along_h = is_symmetric(self.prev_size[0], self.size[0], self.prior, self.interpolation)
        return along_h and self.is_symmetric_along_w

    @property
    def is_symmetric_along_w(self) -> bool:
        return is_symmetric(self.prev_size[1], self.size[1], self.prior, self.interpolation)

    @property
    def terms(self) -> int:
        return term_count(self.size, self.prev_size, self.prior)

    @property
    def bytes(self) -> int:
        """The traffic that no plan can avoid: read every logit of both scales once, write every guided one once."""
        rows = math.prod(self.outputs) * (self.sources + 1) + math.prod(self.inputs) * max(self.sources, 1)
        return self.itemsize * self.batch * self.vocabulary * rows


@dataclass(frozen=True)
class LaunchPlan:
    """One launch: a form, its tile, and the options for Triton.

    The form "fma" sums outer products of columns of the prior's matrix. "dense_halves" multiplies by that matrix with
    matrix instructions, by even/odd halves along both axes: a row stands for a token and its three mirrors. The tile of
    these forms is block_m rows by block_v vocabulary columns; block_k previous tokens are read at a time.

    "separable" goes axis by axis. Its tile is block_m by block_c points of the left half of the grid, and their
    mirrors; block_k by block_j points of the previous grid and their mirrors are read at a time. `terms` is the number
    of terms in the tables. With `whole_map` a program holds the whole previous map of its vocabulary columns in shared
    memory, and computes all tiles of these columns; otherwise it reads the map as it goes, and computes one tile.
    """

    form: str
    precision: str
    warps: int
    stages: int
    programs: int
    block_m: int
    block_k: int
    block_v: int
    block_c: int = 1
    block_j: int = 1
    terms: int = 1
    whole_map: bool = False

    @property
    def halves(self) -> bool:
        return self.form == "dense_halves"


def dense_shape(plan: LaunchPlan, step: Step) -> tuple[int, int, int]:
    """Rows and columns of each table of a dense plan, padded to tiles, and the number of these tables."""
    rows, columns = (tokens_of(size, plan.halves) for size in (step.outputs, step.inputs))
    return up(rows, plan.block_m), up(columns, plan.block_k), 4 if plan.halves else 1


def separable_shape(plan: LaunchPlan, step: Step) -> tuple[int, int, int]:
    """Rows and half the columns of the previous map, padded to chunks, and the tiles of the grid."""
    h, w = step.outputs[0], (step.outputs[1] + 1) // 2
    map_h, map_w = step.inputs[0], (step.inputs[1] + 1) // 2
    return up(map_h, plan.block_k), up(map_w, plan.block_j), -(-h // plan.block_m) * -(-w // plan.block_c)


def tokens_of(size: Size, halves: bool) -> int:
    """The number of points of a grid, or with `halves` of its upper left quarter, which includes middle lines."""
    h, w = size
    return (h + 1) // 2 * ((w + 1) // 2) if halves else h * w


def up(n: int, multiple: int) -> int:
    """The least multiple that is not below n."""
    return -(-n // multiple) * multiple
