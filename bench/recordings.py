"""Records many calls over rotating input sets as one CUDA graph, so that the host does not delay them, and times it."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from .timing import Budget, Inputs, Step, Timing, sample_count, summarise


@dataclass(frozen=True)
class Recording:
    """``calls`` calls of one step. If ``captured``, they are one graph, and the host does nothing between them."""

    calls: int
    replay: Callable[[], object]
    captured: bool


def record(step: Step, sets: Sequence[Inputs], calls: int, device: torch.device) -> Recording:
    """Records ``calls`` calls over the sets in turn. As many outputs stay alive as there are sets.

    On a GPU the calls become one graph. If the step cannot be captured (for example, because it copies from the host),
    they become a loop.
    """

    def loop() -> None:
        alive: deque[object] = deque(maxlen=len(sets))
        for i in range(calls):
            alive.append(step(*sets[i % len(sets)]))

    loop()
    if device.type != "cuda":
        return Recording(calls, loop, captured=False)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            loop()
        graph.replay()
        torch.cuda.synchronize(device)
    except RuntimeError:
        torch.cuda.synchronize(device)
        return Recording(calls, loop, captured=False)
    return Recording(calls, graph.replay, captured=True)


def seconds(recording: Recording, device: torch.device) -> float:
    """Seconds per call of one replay, by the GPU's own clock on a GPU."""
    if device.type != "cuda":
        start = time.perf_counter()
        recording.replay()
        return (time.perf_counter() - start) / recording.calls
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start_event.record()
    recording.replay()
    end_event.record()
    end_event.synchronize()
    return start_event.elapsed_time(end_event) * 1e-3 / recording.calls


def measure(recordings: Mapping[str, Recording], device: torch.device, budget: Budget) -> dict[str, Timing]:
    """Times every recording for about ``budget.seconds``, in one shuffled order. A sample is one replay."""
    counts = {}
    for name, recording in recordings.items():
        start = time.perf_counter()
        while time.perf_counter() - start < budget.warmup:
            once = seconds(recording, device)
        counts[name] = sample_count(once * recording.calls, budget)
    samples: dict[str, list[float]] = {name: [] for name in recordings}
    order = [name for name, count in counts.items() for _ in range(count)]
    random.Random(0).shuffle(order)
    for name in order:
        samples[name].append(seconds(recordings[name], device))
    return {name: summarise(times, recordings[name].calls) for name, times in samples.items()}


def host_seconds(
    step: Step, inputs: Inputs, device: torch.device, calls: int = 200, rounds: int = 20
) -> float:
    """The median time that the host spends in a call, while the device lags behind with the work."""
    times = []
    for _ in range(rounds):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            step(*inputs)
        times.append((time.perf_counter() - start) / calls)
    return sorted(times)[rounds // 2]
