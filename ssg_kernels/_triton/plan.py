"""Chooses how to launch a step: form, tiles, warps and precision. It counts bytes and operations and times nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from ssg_kernels._triton.factors import is_symmetric, term_count
from ssg_kernels._triton.targets import Target

Size = tuple[int, int]


@dataclass(frozen=True)
class Cost:
    """Instructions of a thread for each element (of a warp for each step), and passes through shared memory for each
    128 bytes. Fitted to executed counts: bench/ptx/ranking.py says how well.
    """

    output: float
    value: float
    between: float
    product: float
    step: float
    output_passes: float
    split_passes: float
    load_passes: float
    between_passes: float
    table_passes: float


# By form, and by whether products of 64 rows are instructions of a warp group.
COSTS = {
    ("fma", False): Cost(2.36, 0.64, 0.0, 1.69, 120, 0.03, 0.0, 0.05, 0.0, 0.18),
    ("dense_halves", True): Cost(12.0, 0.0, 0.0, 0.03, 255, 1.76, 1.66, 1.95, 0.0, 1.15),
    ("dense_halves", False): Cost(13.5, 6.1, 0.0, 0.01, 197, 1.98, 0.0, 3.23, 0.0, 0.0),
    ("separable", True): Cost(15.0, 2.89, 3.97, 0.0, 42, 2.67, 1.18, 0.0, 1.95, 0.8),
    ("separable", False): Cost(16.2, 0.98, 1.83, 0.02, 79, 2.44, 1.26, 0.0, 2.29, 0.0),
}

# Seconds that a launch takes before it moves its first byte.
LATENCY = 2e-6
# Warp instructions that a multiprocessor issues in a cycle.
ISSUED = 3.0
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
    of terms in the tables.
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
    """The time of a plan by counting. The slowest of what can bind determines it."""

    bytes: int  # the traffic that no plan can avoid
    cache_bytes: int  # the traffic of the L2 cache
    flops: int  # of matrix instructions, or of multiply-adds: with those of padding and split operands
    instructions: float  # of warps, in all
    wavefronts: float  # passes through shared memory, in all
    memory_s: float
    cache_s: float
    compute_s: float
    issue_s: float
    shared_s: float

    @property
    def seconds(self) -> float:
        return max(self._roofs.values()) + LATENCY

    @property
    def rank(self) -> float:
        """The time, and a little of all that does not bind: of plans that one roof stops, the lightest is best."""
        return self.seconds + 0.05 * sum(self._roofs.values())

    @property
    def bound(self) -> str:
        return max(self._roofs, key=lambda name: self._roofs[name])

    @property
    def _roofs(self) -> dict[str, float]:
        return {
            "memory": self.memory_s,
            "cache": self.cache_s,
            "compute": self.compute_s,
            "issue": self.issue_s,
            "shared": self.shared_s,
        }


@cache
def make_plan(step: Step, target: Target, accurate: bool = False) -> LaunchPlan:
    """The plan of least estimated time. `accurate` asks for float64 arithmetic, which only the fma form has."""
    return min(candidates(step, target, accurate), key=lambda plan: estimate(plan, step, target).rank)


def candidates(step: Step, target: Target, accurate: bool = False) -> list[LaunchPlan]:
    """The plans to choose from. Their tiles fit the registers of the targets (see test_compile_targets.py)."""
    plans = list(_fma(step))
    if not accurate:
        plans += [*(_dense_halves(step, target) if step.is_symmetric else ()), *_separable(step, target)]
    return plans


@dataclass(frozen=True)
class Work:
    """What one program does. An element is one of a tile in one column."""

    outputs: int  # elements of its tile
    values: int  # elements of the previous map, times the warps that split each of them again
    halves: int  # float16 numbers that stand for one of them
    between: int  # elements between the two products of the separable form
    table: int  # elements of tables
    operands: float  # bytes of shared memory that products read, but for split values
    steps: int  # turns of its loops
    products: int  # multiply-adds, times the products of split operands
    wide_products: int  # those of them in instructions of a warp group


def work_of(plan: LaunchPlan, step: Step, target: Target) -> Work:
    columns, parts = plan.block_v, target.products
    if plan.form == "separable":
        h, half = _up(step.inputs[0], plan.block_k), _up((step.inputs[1] + 1) // 2, plan.block_j)
        rows, width, chunks = plan.terms * plan.block_m, 2 * plan.block_j * columns, half // plan.block_j
        quarters = 2 if step.is_symmetric_along_w else 4
        halves = 1 if step.itemsize == 2 and step.sources < 2 else 2
        first = rows * h * 2 * half * columns * (parts if halves == 2 else min(parts, 2))
        along_w = quarters * plan.terms * half * plan.block_c
        wide = _is_wide(rows, target)
        again, operands = _shared_by_warps(
            rows, width, rows * h * chunks, 0 if not wide else first, plan.warps
        )
        return Work(
            outputs=2 * plan.block_m * plan.block_c * columns,
            values=h * 2 * half * columns * again,
            halves=halves,
            between=rows * 2 * half * columns,
            table=rows * h + along_w,
            operands=operands + 4 * plan.warps * along_w,
            steps=(h // plan.block_k + quarters) * chunks,
            products=first + along_w * plan.block_m * columns * parts,
            wide_products=first if wide else 0,
        )
    _, k, tables = dense_shape(plan, step)
    table = tables * plan.block_m * k
    products = table * columns * (parts if plan.halves else 1)
    wide = plan.halves and _is_wide(plan.block_m, target)
    again, operands = 1, 0.0
    if plan.halves:
        again, operands = _shared_by_warps(plan.block_m, columns, table, products if wide else 0, plan.warps)
    return Work(
        outputs=tables * plan.block_m * columns,
        values=tables * k * columns * again,
        halves=2,
        between=0,
        table=table,
        operands=operands,
        steps=k // plan.block_k,
        products=products,
        wide_products=products if wide else 0,
    )


def _is_wide(rows: int, target: Target) -> bool:
    return target.has_warp_groups and rows % 64 == 0


def _shared_by_warps(
    rows: int, columns: int, table: int, wide_products: int, warps: int
) -> tuple[int, float]:
    """How many warps split each logit, and the bytes of tables that they read, for products of rows by columns.

    Instructions of a warp group read both operands from shared memory. Other products are laid out by Triton along the
    longer side: along the rows, all warps split the same logits; along the columns, all read the same table.
    """
    if wide_products:
        return 1, 2 * wide_products * (1 / 64 + 1 / min(256, columns))
    return (warps, 4.0 * table) if rows >= columns else (1, 4.0 * warps * table)


def estimate(plan: LaunchPlan, step: Step, target: Target) -> Estimate:
    widened = step.batch * _up(step.vocabulary, plan.block_v)
    work = work_of(plan, step, target)
    tiles = plan.programs * plan.block_v // widened
    previous = math.prod(step.inputs) * max(step.sources, 1) * step.itemsize * widened
    # The cache gives whole sectors of 32 bytes, also to narrower strips.
    cache_bytes = (step.bytes + (tiles - 1) * previous) * max(1, 32 // (step.itemsize * plan.block_v))
    cost = COSTS[plan.form, work.wide_products > 0]
    loads = max(step.sources, 1)
    warps = plan.warps * work.steps
    instructions = (
        work.outputs * (cost.output + 4 * (loads - 1)) / 32
        + work.values * (cost.value + 2 * (loads - 1)) / 32
        + work.between * cost.between / 32
        + work.products * cost.product / 32
        + warps * cost.step
    )
    wavefronts = (
        4 * work.outputs * cost.output_passes
        + 2 * work.halves * work.values * cost.split_passes
        + work.values * step.itemsize * loads * cost.load_passes
        + 4 * work.between * cost.between_passes
        + 4 * work.table * cost.table_passes
        + work.operands
    ) / 128
    narrow = target.fma * FMA_SHARE if plan.form == "fma" else target.narrow
    compute_s = 2 * ((work.products - work.wide_products) / narrow + work.wide_products / target.matrix)
    # The fullest multiprocessor decides. With fewer programs than units some of these are idle.
    turns = math.ceil(plan.programs / target.units)
    present = min(1.0, plan.programs / target.units)
    return Estimate(
        bytes=step.bytes,
        cache_bytes=cache_bytes,
        flops=2 * work.products * plan.programs,
        instructions=instructions * plan.programs,
        wavefronts=wavefronts * plan.programs,
        memory_s=step.bytes / (target.copy * present),
        cache_s=cache_bytes / (target.cache * present),
        compute_s=compute_s * turns * target.units,
        issue_s=instructions * turns / (target.clock * ISSUED),
        shared_s=wavefronts * turns / target.clock,
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
    amounts = (
        ("memory", counted.bytes, "B", counted.memory_s),
        ("cache", counted.cache_bytes, "B", counted.cache_s),
        ("compute", counted.flops, "flop", counted.compute_s),
        ("issue", counted.instructions, "instr", counted.issue_s),
        ("shared", counted.wavefronts, "pass", counted.shared_s),
    )
    return [
        f"{plan.form}, {tile}; {plan.precision}, {plan.warps} warps, {plan.stages} stages, "
        f"{plan.programs} programs",
        *(f"{name:<8} {_figures(amount, unit, time)}" for name, amount, unit, time in amounts if time > 0),
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
    h, w = step.outputs[0], (step.outputs[1] + 1) // 2
    block_c = min(32, max(16, 1 << (w - 1).bit_length()))
    # The inner length of both products, block_k and terms * block_j, must be at least 16.
    terms = 1 << (step.terms - 1).bit_length()
    # Strips of 16 columns fill the sectors of half types. Taller tiles read the previous map less often. The epilogue
    # of wide logits, and waves of 64 threads, leave fewer registers for sums.
    sums = 4096 if target.is_amd or step.itemsize * step.sources > 4 else 8192
    for block_m, block_v in ((16, 16), (32, 8), (16, 8)):
        if block_c * block_m * block_v > sums or step.itemsize * block_v > 32:
            continue
        programs = _programs(step, _up(h, block_m) * -(-w // block_c), block_m, block_v)
        yield LaunchPlan(
            "separable",
            target.precision,
            4,
            1,
            programs,
            block_m,
            16,
            block_v,
            block_c,
            16 // terms,
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
