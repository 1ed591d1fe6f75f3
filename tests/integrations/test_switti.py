"""`switti` on a stand-in of Switti, in float32 and in bfloat16, with and without `more_smooth`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import standins
from support.attach_checks import CHECKS as ATTACH_CHECKS
from support.generation_checks import (
    CHECKS,
    check_after,
    check_before,
    check_is_itself_again,
    check_two_models,
)
from support.guided_samplers import Sampler
from torch import Tensor

from bench.schedules import square
from ssg_kernels.integrations import switti


def a_switti(dtype: torch.dtype = torch.float32, off: int = 10, on: int = 0, **options: Any) -> Sampler:
    pipe, cfg = standins.SwittiPipeline(standins.NextScale((1, 2, 3, 4, 5)), dtype), 6.0

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        if scale < on:
            return raw[:batch]
        if scale >= off:
            return raw if options.get("last_scale_temp") is None else raw / options["last_scale_temp"]
        t = cfg * (scale / 4)
        return (1 + t) * raw[:batch] - t * raw[batch:]

    return Sampler(
        switti.attach,
        pipe,
        lambda pipe, batch, seed: pipe(
            ["a"] * batch,
            seed=seed,
            cfg=cfg,
            turn_off_cfg_start_si=off,
            turn_on_cfg_start_si=on,
            **options,
        ),
        square(pipe.switti.patch_nums),
        vars(standins),
        merge,
        owner=pipe.switti,
        gain=lambda scale: 1 + scale / 4,
    )


SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "switti": a_switti,
    "switti-cfg-stops": functools.partial(a_switti, off=3, on=1, last_scale_temp=0.1),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SAMPLERS)
def test_switti(name: str, check: Callable[..., None]) -> None:
    check(SAMPLERS[name])


SMOOTH_SWITTI = {
    "all": {"off": 10},
    "later": {"off": 4, "smooth_start_si": 2},
    "one-half": {"off": 3, "on": 2},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SMOOTH_SWITTI)
def test_switti_with_more_smooth(name: str, dtype: torch.dtype) -> None:
    sampler = a_switti(dtype, more_smooth=True, **SMOOTH_SWITTI[name])
    scales = check_after(sampler)
    assert any(scale.smoothed is not None for scale in scales)
    check_is_itself_again(sampler)
    check_two_models(sampler, a_switti(dtype, more_smooth=True, **SMOOTH_SWITTI[name]))


@pytest.mark.parametrize("check", ATTACH_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SMOOTH_SWITTI)
def test_switti_with_more_smooth_in_threads_and_copies(name: str, check: Callable[..., None]) -> None:
    check(functools.partial(a_switti, more_smooth=True, **SMOOTH_SWITTI[name]))


@pytest.mark.parametrize("off", [10, 3])
def test_switti_in_bfloat16(off: int) -> None:
    sampler = a_switti(torch.bfloat16, off=off)
    assert check_after(sampler)[0].raw.dtype == torch.bfloat16
    check_before(sampler)
    check_is_itself_again(sampler)
