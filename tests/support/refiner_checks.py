"""What must hold of a sampler that predicts several scales in its first pass, as CoDe's refiner does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssg_kernels import reference
from support.attach_checks import BETA, check_is_found
from support.generation_checks import (
    SETTINGS,
    assert_close,
    check_attached_twice,
    check_first_scale,
    check_generations,
    check_is_itself_again,
    check_two_models,
)
from support.guided_samplers import Sampler, multipliers
from support.recorders import run


@dataclass
class Refiner:
    """The sampler's `sizes` are all of the schedule. The first pass is over those up to the entry."""

    sampler: Sampler
    entry: int
    cfg: float


def merge(refiner: Refiner, scale: int, halves: Tensor) -> Tensor:
    cond, uncond = halves.double().chunk(2)
    t = refiner.cfg * (scale / (refiner.sampler.K - 1))
    return (1 + t) * cond - t * uncond


def check_guided_from_the_entry_on(refiner: Refiner, cfg_order: str, **settings: Any) -> None:
    sampler, entry = refiner.sampler, refiner.entry
    settings = {"beta": BETA, **settings}
    _, passes = run(sampler, cfg_order=cfg_order, **settings)
    sizes = sampler.sizes
    assert len(passes) == len(sizes) - entry
    counts = [h * w for h, w in sizes]
    # The scale before the entry and the entry itself are the last of the first pass.
    before, first = (
        passes[0].raw[:, -counts[entry - 1] - counts[entry] :].split([counts[entry - 1], counts[entry]], 1)
    )
    halves = [before, first, *(one.raw for one in passes[1:])]
    beta, schedule = settings.pop("beta"), settings.pop("schedule", "linear")
    factors = multipliers(schedule, len(sizes))
    moved = 0.0
    for n, one in enumerate(passes):
        k = entry + n
        now, prev = halves[n + 1], halves[n]
        if cfg_order == "after":
            now, prev = merge(refiner, k, now), merge(refiner, k - 1, prev)
        guided = reference.guided_logits(
            now.double(), prev.double(), sizes[k], sizes[k - 1], beta * factors[k], **settings
        )
        plain = merge(refiner, k, halves[n + 1])
        if cfg_order == "before":
            guided = merge(refiner, k, guided)
        assert_close(one.handed, guided)
        moved = max(moved, (guided - plain).abs().max().item())
    assert moved > 0.1, "guidance made no difference"


def check_refiner(make: Callable[[], Refiner]) -> None:
    refiner = make()
    numbers = {"schedule": [0.25 * (k + 1) for k in range(refiner.sampler.K)], "beta": 1.0}
    for settings in (*SETTINGS, numbers):
        for cfg_order in ("after", "before"):
            check_guided_from_the_entry_on(refiner, cfg_order, **settings)
    passes = dataclasses.replace(refiner.sampler, sizes=refiner.sampler.sizes[refiner.entry :], repeats=())
    check_is_itself_again(passes)
    check_first_scale(passes, is_guided=True)
    check_attached_twice(refiner.sampler)
    check_is_found(refiner.sampler)
    if len(passes.sizes) > 1:
        check_two_models(refiner.sampler, make().sampler)
        check_generations(passes)
