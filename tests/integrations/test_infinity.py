"""`infinity` on a stand-in of Infinity."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import standins
from support.generation_checks import CHECKS, check_after, check_guided
from support.guided_samplers import Sampler
from support.recorders import recorded, run, same
from torch import Tensor

from ssg_kernels.integrations import infinity


def an_infinity(
    grids: Any = ((1, 1), (2, 2), (3, 2), (6, 4)),
    cfgs: Any = (3.0,) * 4,
    layers: Any = (0,),
    model: Any = None,
    left_out: Any = (),
) -> Sampler:
    model = model or standins.Infinity()
    taus = [0.5 + 0.125 * k for k in range(len(grids))]
    came = [k for k, (_, w) in enumerate(grids) if w not in left_out]

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        scale = came[scale]
        if len(raw) == batch:
            return raw.mul(1 / taus[scale])
        raw = raw.mul(1 / taus[scale])
        return cfgs[scale] * raw[:batch] + (1 - cfgs[scale]) * raw[batch:]

    return Sampler(
        infinity.attach,
        model,
        lambda model, batch, seed: model.autoregressive_infer_cfg(
            B=batch,
            g_seed=seed,
            scale_schedule=[(1, h, w) for h, w in grids],
            cfg_list=cfgs,
            tau_list=taus,
            top_k=900,
            top_p=0.97,
            cfg_insertion_layer=layers,
            left_out=left_out,
        ),
        [grids[k] for k in came],
        vars(standins),
        merge,
        sampler="sample_with_top_k_top_p_also_inplace_modifying_logits_",
        tokens=lambda handed, size: handed.view(len(handed), size[0] * size[1], -1),
        K=len(grids),
        numbers=came,
    )


SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "infinity": an_infinity,
    "infinity-wide": functools.partial(an_infinity, [(1, 1), (2, 2), (2, 6), (3, 9)]),
    "infinity-hidden-cfg": functools.partial(an_infinity, layers=(-5,)),
    "infinity-cfg-stops": functools.partial(an_infinity, cfgs=(3.0, 4.0, 1.0, 1.0)),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SAMPLERS)
def test_infinity(name: str, check: Callable[..., None]) -> None:
    check(SAMPLERS[name])


@pytest.mark.parametrize("left_out", [(3,), (2, 3), (4,)])
def test_scales_that_are_left_out(left_out: tuple[int, ...]) -> None:
    """K counts them, and the prior comes from the last scale that came."""
    check_guided(
        functools.partial(
            an_infinity, ((1, 1), (2, 2), (2, 3), (6, 4), (6, 6)), (3.0,) * 5, left_out=left_out
        )
    )


def test_an_early_stop_leaves_nothing_behind() -> None:
    model = standins.Infinity()
    call = {"B": 2, "g_seed": 0, "cfg_list": [3.0] * 4, "tau_list": [1.0] * 4, "cfg_insertion_layer": [0]}
    call |= {"scale_schedule": [(1, 1, 1), (1, 2, 2), (1, 3, 3), (1, 4, 4)], "top_p": 1.0}
    with infinity.attach(model, 0.75):
        whole = model.autoregressive_infer_cfg(**call)
        model.autoregressive_infer_cfg(**call, trunk_scale=2)
        assert torch.equal(model.autoregressive_infer_cfg(**call), whole)


def test_one_infinity_takes_every_aspect_ratio() -> None:
    grids = ([(1, 1), (2, 2), (6, 2), (9, 3)], [(1, 1), (2, 2), (4, 4)], [(1, 1), (2, 2), (2, 6), (3, 9)])
    alone = [run(an_infinity(grid), beta=0.75) for grid in grids]
    model = standins.Infinity()
    with recorded(an_infinity(model=model)) as recorder, infinity.attach(model, 0.75):
        for grid, expected in zip(grids, alone, strict=True):
            assert same(recorder.run(sampler=an_infinity(grid, model=model)), expected)


def test_infinity_refuses_what_has_no_meaning() -> None:
    model = standins.Infinity()
    call = {"cfg_list": [1.0, 3.0], "tau_list": [1.0] * 2, "cfg_insertion_layer": [0]}
    with (
        infinity.attach(model, 0.5),
        pytest.raises(ValueError, match="scale_schedule must be of single frames"),
    ):
        model.autoregressive_infer_cfg(scale_schedule=[(1, 1, 1), (5, 2, 2)], **call)
    with (
        infinity.attach(model, 0.5, cfg_order="before"),
        pytest.raises(ValueError, match=r"cfg_list must not go from 1 to another value, got \[1.0, 3.0\]"),
    ):
        model.autoregressive_infer_cfg(scale_schedule=[(1, 1, 1), (1, 2, 2)], **call)
    # After cfg there is one grid of logits at every scale.
    check_after(an_infinity(cfgs=(1.0, 3.0, 1.0, 2.0)))
