"""Chooses how to launch a step: form, tiles, warps and precision. It counts bytes and operations and times nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

from ssg_kernels._triton.cost import LATENCY, bytes_of_whole_map, estimate, is_wide
from ssg_kernels._triton.step import LaunchPlan, Step, tokens_of, up
from ssg_kernels._triton.targets import Target


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


def describe(step: Step, target: Target, accurate: bool = False) -> list[str]:
    """Lines of text on the plan of a step and its time by counting."""
    plan = make_plan(step, target, accurate)
    counted = estimate(plan, step, target)
    tile = f"{plan.block_m} rows x {plan.block_v} columns, {plan.block_k} deep"
    if plan.form == "separable":
        tile = (
            f"{plan.block_m} x {plan.block_c} points x {plan.block_v} columns, "
            f"{plan.block_k} x {plan.block_j} deep, {plan.terms} stacked terms"
            f"{', whole map' if plan.whole_map else ''}"
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
        f"latency  {counted.in_turn:9d} in turn {1e6 * counted.latency_s:9.1f} us",
        f"{counted.bound} binds: {1e6 * counted.seconds:.1f} us with {1e6 * LATENCY:.0f} us to launch, "
        f"{counted.bytes / target.copy / counted.seconds:.0%} of the copy rate",
    ]


def _figures(amount: float, unit: str, seconds: float) -> str:
    return (
        f"{amount / 1e9:9.3f} G{unit:<5} {1e6 * seconds:9.1f} us at {amount / seconds / 1e12:.3g} T{unit}/s"
    )


def _fma(step: Step) -> Iterator[LaunchPlan]:
    for block_m, block_v, warps in ((4, 128, 1), (16, 128, 4), (16, 64, 4)):
        programs = _programs(step, math.prod(step.outputs), block_m, block_v)
        block_k = min(8, math.prod(step.inputs))
        yield LaunchPlan("fma", "ieee", warps, 1, programs, block_m, block_k, block_v)


def _dense_halves(step: Step, target: Target) -> Iterator[LaunchPlan]:
    # 64 rows take 4 warps: with 8, Hopper's two warp groups would do the same work.
    rows = tokens_of(step.outputs, True)
    tiles = [(16, 64, 4), (32, 64, 4), (64, 32, 4)]
    # The accumulators of this tile leave no registers for the rows of wider logits.
    if target.has_warp_groups and step.itemsize * step.sources <= 2:
        tiles.append((64, 64, 4))
    # Rows that are not aligned would pass through shared memory one element at a time, with many conflicts.
    stages = 2 if step.aligned else 1
    for block_m, block_v, warps in tiles:
        programs = _programs(step, rows, block_m, block_v)
        yield LaunchPlan("dense_halves", target.precision, warps, stages, programs, block_m, 16, block_v)


def _separable(step: Step, target: Target) -> Iterator[LaunchPlan]:
    h, w = step.outputs[0], (step.outputs[1] + 1) // 2
    block_c = min(32, max(16, 1 << (w - 1).bit_length()))
    # The inner length of both products, block_k and terms * block_j, must be at least 16.
    terms = 1 << (step.terms - 1).bit_length()
    # Strips of 16 columns fill the sectors of half types. Taller tiles read the previous map less often. The epilogue
    # of wide logits, and waves of 64 threads, leave fewer registers for sums.
    sums = 1024 if target.is_amd or step.itemsize * step.sources > 4 else 2048
    tiles = [(16, 16, 4), (32, 8, 4), (16, 8, 4)]
    widest = 32
    if not step.aligned:
        # A strip that is twice as wide needs two thirds of the sectors.
        tiles.append((32, 16, 8))
        widest = 64
    for block_m, block_v, warps in tiles:
        if block_c * block_m * block_v > sums * warps or step.itemsize * block_v > widest:
            continue
        programs = _programs(step, up(h, block_m) * -(-w // block_c), block_m, block_v)
        shape = (block_m, 16, block_v, block_c, 16 // terms, terms)
        yield LaunchPlan("separable", target.precision, warps, 1, programs, *shape)
        # Instructions of a warp group read the map where it lies. Two programs share a multiprocessor, so that one
        # works while the other one waits for its map.
        strips = _programs(step, 1, 1, block_v)
        whole = LaunchPlan("separable", target.precision, warps, 1, strips, *shape, whole_map=True)
        fits = 2 * (bytes_of_whole_map(whole, step) + 1024) <= target.shared
        if fits and programs > strips and is_wide(terms * block_m, target):
            yield whole


def _programs(step: Step, rows: int, block_m: int, block_v: int) -> int:
    return -(-rows // block_m) * -(-step.vocabulary // block_v) * step.batch
