"""Chooses how to launch a step: form, tiles, warps and precision. It counts bytes and operations and times nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from ssg_kernels._triton.factors import is_symmetric, term_count
from ssg_kernels._triton.targets import Target

Size = tuple[int, int]

# Seconds that a launch takes before it moves its first byte.
LATENCY = 2e-6
# Outer products reach this share of the peak FMA rate, because a thread loads an operand for every two or three FMAs.
FMA_SHARE = 0.5


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

    @property
    def outputs(self) -> Size:
        return self.prev_size if self.transpose else self.size

    @property
    def inputs(self) -> Size:
        return self.size if self.transpose else self.prev_size

    @property
    def is_symmetric(self) -> bool:
        """Whether the prior maps even to even and odd to odd along both axes."""
        axes = zip(self.prev_size, self.size, strict=True)
        return all(is_symmetric(n, m, self.prior, self.interpolation) for n, m in axes)

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

    "separable" goes axis by axis. Its tile is block_m by block_c points of the grid; block_k by block_j points of the
    previous grid are read at a time. `terms` is the number of terms in the tables.
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

    @property
    def halves(self) -> bool:
        return self.form == "dense_halves"


@dataclass(frozen=True)
class Estimate:
    """The time of a plan by counting. The slowest of memory, cache and arithmetic determines it."""

    bytes: int  # the traffic that no plan can avoid
    cache_bytes: int  # the traffic of the L2 cache
    flops: int  # all issued operations, with those of padding and split operands
    memory_s: float
    cache_s: float
    compute_s: float

    @property
    def seconds(self) -> float:
        return max(self.memory_s, self.cache_s, self.compute_s) + LATENCY

    @property
    def bound(self) -> str:
        roofs = {"memory": self.memory_s, "cache": self.cache_s, "compute": self.compute_s}
        return max(roofs, key=lambda name: roofs[name])


@cache
def make_plan(step: Step, target: Target, accurate: bool = False) -> LaunchPlan:
    """The plan of least estimated time. `accurate` asks for float64 arithmetic, which only the fma form has."""
    return min(candidates(step, target, accurate), key=lambda plan: estimate(plan, step, target).seconds)


def candidates(step: Step, target: Target, accurate: bool = False) -> list[LaunchPlan]:
    """The plans to choose from. Their tiles fit the registers of the targets (see test_compile_targets.py)."""
    plans = list(_fma(step))
    if not accurate:
        plans += [*(_dense_halves(step, target) if step.is_symmetric else ()), *_separable(step, target)]
    return plans


def estimate(plan: LaunchPlan, step: Step, target: Target) -> Estimate:
    widened = step.batch * _up(step.vocabulary, plan.block_v)
    previous = math.prod(step.inputs) * max(step.sources, 1) * step.itemsize * widened
    if plan.form == "separable":
        (h, w), (prev_h, prev_w) = step.outputs, step.inputs
        tiles = -(-h // plan.block_m) * -(-w // plan.block_c)
        prev_h, prev_w = _up(prev_h, plan.block_k), _up(prev_w, plan.block_j)
        products = (
            prev_h * prev_w * plan.terms * plan.block_m + plan.terms * prev_w * plan.block_m * plan.block_c
        )
        table = plan.terms * (_up(h, plan.block_m) * prev_h + _up(w, plan.block_c) * prev_w)
        matrix_rows = min(plan.terms * plan.block_m, plan.block_c)
    else:
        rows, columns, tables = dense_shape(plan, step)
        tiles = rows // plan.block_m
        products = tables * plan.block_m * columns
        table = tables * rows * columns
        matrix_rows = plan.block_m
    flops = 2 * tiles * products * widened
    cache_bytes = step.bytes + (tiles - 1) * previous
    if 4 * table > target.near:
        cache_bytes += 4 * table * (widened // plan.block_v)
    if plan.form == "fma":
        rate = target.fma * FMA_SHARE
    else:
        flops *= target.products
        rate = target.matrix if matrix_rows >= 64 else target.narrow
    # With fewer programs than units some units are idle, and so they are in the last wave.
    filled = plan.programs / (math.ceil(plan.programs / target.units) * target.units)
    present = min(1.0, plan.programs / target.units)
    return Estimate(
        bytes=step.bytes,
        cache_bytes=cache_bytes,
        flops=flops,
        memory_s=step.bytes / (target.copy * present),
        cache_s=cache_bytes / (target.cache * present),
        compute_s=flops / (rate * filled),
    )


def describe(step: Step, target: Target, accurate: bool = False) -> list[str]:
    """Lines of text on the plan of a step and its time by counting."""
    plan = make_plan(step, target, accurate)
    counted = estimate(plan, step, target)
    tile = f"{plan.block_m} rows x {plan.block_v} columns, {plan.block_k} deep"
    if plan.form == "separable":
        tile = (
            f"{plan.block_m} x {plan.block_c} points x {plan.block_v} columns, "
            f"{plan.block_k} x {plan.block_j} deep, {plan.terms} stacked terms"
        )
    return [
        f"{plan.form}, {tile}; {plan.precision}, {plan.warps} warps, {plan.stages} stages, "
        f"{plan.programs} programs",
        f"memory   {_figures(counted.bytes, 'B', counted.memory_s)}",
        f"cache    {_figures(counted.cache_bytes, 'B', counted.cache_s)}",
        f"compute  {_figures(counted.flops, 'flop', counted.compute_s)}",
        f"{counted.bound} binds: {1e6 * counted.seconds:.1f} us with {1e6 * LATENCY:.0f} us to launch, "
        f"{counted.bytes / target.copy / counted.seconds:.0%} of the copy rate",
    ]


def _figures(amount: float, unit: str, seconds: float) -> str:
    return (
        f"{amount / 1e9:9.3f} G{unit:<5} {1e6 * seconds:9.1f} us at {amount / seconds / 1e12:.3g} T{unit}/s"
    )


def dense_shape(plan: LaunchPlan, step: Step) -> tuple[int, int, int]:
    """Rows and columns of each table of a dense plan, padded to tiles, and the number of these tables."""
    rows, columns = (_tokens(size, plan.halves) for size in (step.outputs, step.inputs))
    return _up(rows, plan.block_m), _up(columns, plan.block_k), 4 if plan.halves else 1


def _fma(step: Step) -> Iterator[LaunchPlan]:
    for block_m, block_v, warps in ((4, 128, 1), (16, 128, 4), (16, 64, 4)):
        programs = _programs(step, math.prod(step.outputs), block_m, block_v)
        block_k = min(8, math.prod(step.inputs))
        yield LaunchPlan("fma", "ieee", warps, 1, programs, block_m, block_k, block_v)


def _dense_halves(step: Step, target: Target) -> Iterator[LaunchPlan]:
    # 64 rows take 4 warps: with 8, Hopper's two warp groups would do the same work.
    rows = _tokens(step.outputs, True)
    tiles = [(16, 64, 4, 2), (32, 64, 4, 2), (64, 32, 4, 2)]
    # The accumulators of this tile leave no registers for the rows of wider logits.
    if target.has_warp_groups and step.itemsize * step.sources <= 2:
        tiles.append((64, 64, 4, 2))
    for block_m, block_v, warps, stages in tiles:
        programs = _programs(step, rows, block_m, block_v)
        yield LaunchPlan("dense_halves", target.precision, warps, stages, programs, block_m, 16, block_v)


def _separable(step: Step, target: Target) -> Iterator[LaunchPlan]:
    (h, w), block_m = step.outputs, 16
    block_c = min(64, max(16, 1 << (w - 1).bit_length()))
    # The inner length of both products, block_k and terms * block_j, must be at least 16.
    terms = 1 << (step.terms - 1).bit_length()
    block_j = 16 if terms == 1 else 8
    warps = 4 if target.has_warp_groups or target.is_amd else 8
    # Rows of 16 columns fill sectors of half types. With 64 points, their accumulators would take all registers.
    tiles = [(16, 8), (32, 16)] if block_c <= 32 and not target.is_amd else [(16, 8)]
    for block_k, block_v in tiles:
        programs = _programs(step, _up(h, block_m) * -(-w // block_c), block_m, block_v)
        yield LaunchPlan(
            "separable",
            target.precision,
            warps,
            1,
            programs,
            block_m,
            block_k,
            block_v,
            block_c,
            block_j,
            terms,
        )


def _programs(step: Step, rows: int, block_m: int, block_v: int) -> int:
    return -(-rows // block_m) * -(-step.vocabulary // block_v) * step.batch


def _tokens(size: Size, halves: bool) -> int:
    """The number of points of a grid, or with `halves` of its upper left quarter, which includes middle lines."""
    h, w = size
    return (h + 1) // 2 * ((w + 1) // 2) if halves else h * w


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
