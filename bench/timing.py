"""Times contenders. It interleaves them in one run and drops no sample."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Inputs = tuple[Tensor, Tensor]
Step = Callable[[Tensor, Tensor], object]


@dataclass(frozen=True)
class Budget:
    """How long to time each contender: seconds of timed work, of warm-up and of one sample.

    A sample is a block of calls that lasts about ``block`` seconds, or one call if that takes longer.
    """

    seconds: float = 0.6
    warmup: float = 0.1
    block: float = 200e-6
    min_samples: int = 5
    max_samples: int = 1000
    clock: Callable[[], int] = time.perf_counter_ns
    """Nanoseconds. `time.process_time_ns` counts what this process computed, whatever else the machine does."""


@dataclass(frozen=True)
class Timing:
    """Seconds per call over ``n`` samples of ``calls`` calls each."""

    median: float
    p20: float
    p80: float
    minimum: float
    n: int
    calls: int

    def as_json(self) -> dict[str, Any]:
        return {
            "median_us": self.median * 1e6,
            "p20_us": self.p20 * 1e6,
            "p80_us": self.p80 * 1e6,
            "min_us": self.minimum * 1e6,
            "n": self.n,
            "calls_per_sample": self.calls,
        }


def percentile(samples: Sequence[float], q: float) -> float:
    """The q-th percentile, 0 <= q <= 100, interpolated linearly between the two nearest samples."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    position = (len(ordered) - 1) * q / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def summarise(samples: Sequence[float], calls: int) -> Timing:
    return Timing(
        percentile(samples, 50),
        percentile(samples, 20),
        percentile(samples, 80),
        min(samples),
        len(samples),
        calls,
    )


def schedule(counts: Mapping[str, int], seed: int = 0) -> list[str]:
    """The order of all samples. Each contender is spread evenly over the run; the order within a round is shuffled.

    A slow contender with few samples therefore meets the same stretches of the run as a fast one with many.
    """
    order: list[str] = []
    shuffler = random.Random(seed)
    rounds = max(counts.values(), default=0)
    for r in range(rounds):
        due = [name for name, n in counts.items() if (r + 1) * n // rounds > r * n // rounds]
        shuffler.shuffle(due)
        order += due
    return order


class Rotation:
    """Hands out the input sets in turn.

    warm: every sample gets one set. Its tensors are rewritten in place before the clock starts, the previous scale
    first. That is the state in which the model leaves them, whichever contender ran before.
    cold: every call gets the set that was touched longest ago.
    """

    def __init__(self, sets: Sequence[Inputs], cold: bool) -> None:
        self.sets = sets
        self.cold = cold
        self.position = 0

    def take(self, calls: int) -> list[Inputs]:
        step = calls if self.cold else 1
        taken = [self.sets[(self.position + i) % len(self.sets)] for i in range(step)]
        self.position = (self.position + step) % len(self.sets)
        if self.cold:
            return taken
        for tensor in reversed(taken[0]):
            tensor.mul_(1)
        return taken * calls


def sample(step: Step, inputs: Sequence[Inputs], clock: Callable[[], int] = time.perf_counter_ns) -> float:
    """Seconds per call, measured over one block of calls."""
    start = clock()
    for logits, prev_logits in inputs:
        step(logits, prev_logits)
    return (clock() - start) * 1e-9 / len(inputs)


def calls_per_sample(seconds_per_call: float, block: float) -> int:
    return max(1, math.ceil(block / max(seconds_per_call, 1e-9)))


def sample_count(seconds_per_sample: float, budget: Budget) -> int:
    wanted = round(budget.seconds / max(seconds_per_sample, 1e-9))
    return min(max(wanted, budget.min_samples), budget.max_samples)


def _warm_up(step: Step, rotation: Rotation, budget: Budget) -> float:
    """Runs the step for ``budget.warmup`` seconds, at least twice, and estimates its seconds per call."""
    times: list[float] = []
    calls, spent = 1, 0.0
    while len(times) < 2 or spent < budget.warmup:
        times.append(sample(step, rotation.take(calls), budget.clock))
        spent += times[-1] * calls
        calls = calls_per_sample(times[-1], budget.block)
    return percentile(times[len(times) // 2 :], 50)


def measure(
    steps: Mapping[str, Step],
    rotation: Rotation,
    budget: Budget,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Timing]:
    """Times every step. Calls ``progress(done, total)`` between samples."""
    calls: dict[str, int] = {}
    counts: dict[str, int] = {}
    for name, step in steps.items():
        estimate = _warm_up(step, rotation, budget)
        calls[name] = calls_per_sample(estimate, budget.block)
        counts[name] = sample_count(estimate * calls[name], budget)
    samples: dict[str, list[float]] = {name: [] for name in steps}
    order = schedule(counts)
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for done, name in enumerate(order):
            samples[name].append(sample(steps[name], rotation.take(calls[name]), budget.clock))
            if progress is not None:
                progress(done + 1, len(order))
    finally:
        if collecting:
            gc.enable()
    return {name: summarise(times, calls[name]) for name, times in samples.items()}
