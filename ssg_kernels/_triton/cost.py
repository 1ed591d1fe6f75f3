"""What a launch costs, by counting: bytes, operations, instructions and passes through shared memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ssg_kernels._triton.step import LaunchPlan, Step, dense_shape, separable_shape, up
from ssg_kernels._triton.targets import Target


@dataclass(frozen=True)
class Cost:
    """Instructions of a thread for each element (of a warp for each step, and once), and passes through shared memory
    for each 128 bytes. Fitted to executed counts: bench/ptx/ranking.py says how well.
    """

    output: float
    value: float
    between: float
    entry: float
    product: float
    step: float
    once: float
    output_passes: float
    split_passes: float
    load_passes: float
    between_passes: float
    table_passes: float


# By form, and by whether products of 64 rows are instructions of a warp group.
COSTS = {
    ("fma", False): Cost(6.29, 3.59, 0.0, 4.9, 0.0, 0, 48, 0.03, 0.0, 0.05, 0.0, 0.18),
    ("dense_halves", True): Cost(8.53, 0.0, 0.0, 0.0, 0.04, 218, 139, 1.88, 1.37, 1.75, 0.0, 1.19),
    ("dense_halves", False): Cost(7.56, 9.79, 0.0, 0.0, 0.02, 0, 239, 2.06, 0.0, 3.45, 0.0, 0.0),
    ("separable", True): Cost(7.77, 0.72, 4.46, 0.0, 0.01, 27, 237, 0.26, 0.0, 1.0, 1.96, 1.06),
    ("separable", False): Cost(6.24, 2.88, 4.74, 0.0, 0.03, 0, 314, 0.35, 1.25, 0.0, 2.18, 0.0),
}


@dataclass(frozen=True)
class Wait:
    """Cycles that the warps of a program wait for, and the registers of a thread. Fitted like `Cost`."""

    once: float
    turn: float  # of a loop that has several
    only_turn: float  # of a loop that has one
    value: float  # for each element of the previous map that a thread loads
    output: float  # for each element that a thread writes
    first: float  # more for the first program of a multiprocessor: its tables are in the second-level cache
    registers: int  # but for its sums
    sum: float  # registers for each of them


# By form and by whether products of 64 rows are instructions of a warp group; outer products by columns and warps.
WAITS: dict[tuple[object, ...], Wait] = {
    ("fma", 128, 1): Wait(0, 3439, 0, 18.1, 42.8, 0, 40, 1.5),
    ("fma", 128, 4): Wait(0, 672, 518, 1.2, 52.0, 0, 40, 1.5),
    ("fma", 64, 4): Wait(0, 994, 0, 2.5, 81.0, 0, 32, 1.5),
    ("dense_halves", True): Wait(2284, 971, 707, 8.3, 18.0, 888, 165, 0),
    ("dense_halves", False): Wait(2578, 0, 1728, 27.7, 17.3, 888, 165, 0),
    ("separable", True): Wait(1598, 125, 0, 44.7, 8.9, 854, 64, 1.5),
    ("separable", False): Wait(940, 278, 0, 6.5, 17.3, 689, 64, 1.5),
}

# Seconds that a launch takes before it moves its first byte.
LATENCY = 2e-6
# Registers of a multiprocessor.
REGISTERS = 1 << 16
# Warp instructions that a multiprocessor issues in a cycle.
ISSUED = 3.0
# Outer products reach this share of the peak FMA rate, because a thread loads an operand for every two or three FMAs.
FMA_SHARE = 0.5


@dataclass(frozen=True)
class Estimate:
    """The time of a plan by counting. The slowest of what can bind determines it."""

    bytes: int  # the traffic that no plan can avoid
    cache_bytes: int  # the traffic of the L2 cache
    flops: int  # of matrix instructions, or of multiply-adds: with those of padding and split operands
    instructions: float  # of warps, in all
    wavefronts: float  # passes through shared memory, in all
    in_turn: int  # programs that follow one another on a multiprocessor
    memory_s: float
    cache_s: float
    compute_s: float
    issue_s: float
    shared_s: float
    latency_s: float  # of the programs that follow one another on a multiprocessor
    exposed_s: float  # what nothing hides

    @property
    def seconds(self) -> float:
        """The latency contains what nothing hides."""
        return max(max(self._throughputs.values()) + self.exposed_s, self.latency_s) + LATENCY

    @property
    def rank(self) -> float:
        """The time, and a little of all that does not bind: of plans that one roof stops, the lightest is best."""
        return self.seconds + 0.05 * (sum(self._throughputs.values()) + self.latency_s)

    @property
    def bound(self) -> str:
        most = max(self._throughputs, key=lambda name: self._throughputs[name])
        return "latency" if self.latency_s > self._throughputs[most] + self.exposed_s else most

    @property
    def _throughputs(self) -> dict[str, float]:
        return {
            "memory": self.memory_s,
            "cache": self.cache_s,
            "compute": self.compute_s,
            "issue": self.issue_s,
            "shared": self.shared_s,
        }


@dataclass(frozen=True)
class Work:
    """What one program does. An element is one of a tile in one column."""

    outputs: int  # elements of its tiles
    sums: int  # elements of one of them
    values: int  # elements of the previous map, times the warps that split, or the threads that load, each of them
    halves: int  # float16 numbers that stand for one of them
    between: int  # elements between the two products of the separable form
    table: int  # elements of tables
    entries: int  # those that threads load for outer products
    operands: float  # bytes of shared memory that products read, but for split values
    steps: int  # turns of its loops
    products: int  # multiply-adds, times the products of split operands
    wide_products: int  # those of them in instructions of a warp group


def work_of(plan: LaunchPlan, step: Step, target: Target) -> Work:
    columns, parts = plan.block_v, target.products
    if plan.form == "separable":
        h, half, tiles = separable_shape(plan, step)
        rows, width, chunks = plan.terms * plan.block_m, 2 * plan.block_j * columns, half // plan.block_j
        quarters = 2 if step.is_symmetric_along_w else 4
        halves = halves_of(step)
        if not plan.whole_map:
            tiles = 1
        first = rows * h * 2 * half * columns * (parts if halves == 2 else min(parts, 2))
        along_w = quarters * plan.terms * half * plan.block_c
        wide = is_wide(rows, target)
        again, operands = _shared_by_warps(
            rows, width, rows * h * chunks, 0 if not wide else first, plan.warps
        )
        return Work(
            outputs=tiles * 2 * plan.block_m * plan.block_c * columns,
            sums=2 * plan.block_m * plan.block_c * columns,
            values=h * 2 * half * columns * again,
            halves=halves,
            between=tiles * rows * 2 * half * columns,
            table=tiles * (rows * h + along_w),
            entries=0,
            operands=tiles * (operands + 4 * plan.warps * along_w),
            steps=tiles * (h // plan.block_k + quarters) * chunks,
            products=tiles * (first + along_w * plan.block_m * columns * parts),
            wide_products=tiles * first if wide else 0,
        )
    _, k, tables = dense_shape(plan, step)
    table = tables * plan.block_m * k
    products = table * columns * (parts if plan.halves else 1)
    wide = plan.halves and is_wide(plan.block_m, target)
    if plan.halves:
        again, operands = _shared_by_warps(plan.block_m, columns, table, products if wide else 0, plan.warps)
        entries = 0
    else:
        # A thread holds a vector of columns in some rows. For each outer product it loads the logits of its columns and
        # the entries of its rows.
        vector = 16 // step.itemsize if step.aligned else 1
        again, operands = max(1, 32 * plan.warps * vector // columns), 0.0
        entries = 32 * plan.warps * k * max(1, plan.block_m // again)
    return Work(
        outputs=tables * plan.block_m * columns,
        sums=tables * plan.block_m * columns,
        values=tables * k * columns * again,
        halves=2,
        between=0,
        table=table,
        entries=entries,
        operands=operands,
        steps=k // plan.block_k,
        products=products,
        wide_products=products if wide else 0,
    )


def halves_of(step: Step) -> int:
    """The float16 numbers that stand for a previous logit in the separable form."""
    return 1 if step.itemsize == 2 and step.sources < 2 else 2


def bytes_of_whole_map(plan: LaunchPlan, step: Step) -> int:
    """The shared memory of a separable program that holds the whole previous map: the map, the table along h, and for
    one chunk the table along w and the sums.
    """
    h, half, _ = separable_shape(plan, step)
    chunk = 4 * plan.terms * plan.block_j * (plan.block_c + plan.block_m * plan.block_v)
    return 4 * half * h * plan.block_v * halves_of(step) + 4 * plan.terms * plan.block_m * h + chunk


def is_wide(rows: int, target: Target) -> bool:
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
    columns = plan.block_v
    widened = step.batch * up(step.vocabulary, columns)
    work = work_of(plan, step, target)
    tiles = plan.programs * columns // widened
    previous = math.prod(step.inputs) * max(step.sources, 1) * step.itemsize * widened
    # The cache gives whole sectors of 32 bytes, also to narrower strips. Strips that are not aligned need one more.
    width = step.itemsize * columns
    sectors = max(1, 32 / width) if step.aligned else (width + 32 - step.itemsize) / width
    cache_bytes = int((step.bytes + (tiles - 1) * previous) * sectors)
    cost = COSTS[plan.form, work.wide_products > 0]
    loads = max(step.sources, 1)
    warps = plan.warps * work.steps
    instructions = (
        work.outputs * (cost.output + 4 * (loads - 1)) / 32
        + work.values * (cost.value + 2 * (loads - 1)) / 32
        + work.between * cost.between / 32
        + work.entries * cost.entry / 32
        + work.products * cost.product / 32
        + warps * cost.step
        + plan.warps * cost.once
    )
    wavefronts = (
        4 * work.outputs * cost.output_passes
        + 2 * work.halves * work.values * cost.split_passes
        + work.values * step.itemsize * loads * cost.load_passes
        + 4 * work.between * cost.between_passes
        + 4 * work.table * cost.table_passes
        + work.operands
    ) / 128
    fma = plan.form == "fma"
    narrow = target.fma * FMA_SHARE if fma else target.narrow
    compute_s = 2 * ((work.products - work.wide_products) / narrow + work.wide_products / target.matrix)
    # The fullest multiprocessor decides. With fewer programs than units some of these are idle.
    turns = math.ceil(plan.programs / target.units)
    present = min(1.0, plan.programs / target.units)
    wait = WAITS[("fma", columns, plan.warps) if fma else (plan.form, work.wide_products > 0)]
    threads = 32 * plan.warps
    cycles = (
        wait.once
        + (wait.turn * work.steps if work.steps > 1 else wait.only_turn)
        + (wait.value * work.values + wait.output * work.outputs) / threads
    )
    registers = min(255, wait.registers + wait.sum * work.sums / threads)
    in_turn = math.ceil(turns / max(1, REGISTERS // int(threads * registers)))
    return Estimate(
        bytes=step.bytes,
        cache_bytes=cache_bytes,
        flops=2 * work.products * plan.programs,
        instructions=instructions * plan.programs,
        wavefronts=wavefronts * plan.programs,
        in_turn=in_turn,
        memory_s=step.bytes / (target.copy * present),
        cache_s=cache_bytes / (target.cache * present),
        compute_s=compute_s * turns * target.units,
        issue_s=instructions * turns / (target.clock * ISSUED),
        shared_s=wavefronts * turns / target.clock,
        # A loop of several stages requests its tables ahead.
        latency_s=(in_turn * cycles + (0 if plan.stages > 1 and work.steps > 1 else wait.first))
        / target.clock,
        # The registers of a multiprocessor serve eight warps. A program that is alone there waits for its map.
        exposed_s=previous / target.copy if plan.warps >= 8 else 0.0,
    )
