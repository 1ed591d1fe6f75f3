"""`hart` on a stand-in of HART."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
from support import standins
from support.generation_checks import CHECKS
from support.guided_samplers import Sampler, ramp

from bench.schedules import square
from ssg_kernels.integrations import hart


def a_hart(more_smooth: bool) -> Sampler:
    model, cfg = standins.Hart(), 4.5
    stages = model.num_stages_minus_1
    merge = ramp(cfg, stages)
    return Sampler(
        hart.attach,
        model,
        lambda model, batch, seed: model.autoregressive_infer_cfg(
            batch, None, g_seed=seed, cfg=cfg, more_smooth=more_smooth
        ),
        square(model.patch_nums),
        vars(standins),
        # The last scale goes with the ratio of the one before.
        lambda scale, raw, batch: merge(min(scale, stages - 1), raw, batch),
        source=lambda scale, raw: raw if scale else raw[:, -1:],
        gain=lambda scale: 1 + min(scale, stages - 1) / stages,
    )


SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "hart": functools.partial(a_hart, more_smooth=False),
    "hart-smooth": functools.partial(a_hart, more_smooth=True),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SAMPLERS)
def test_hart(name: str, check: Callable[..., None]) -> None:
    check(SAMPLERS[name])


def test_hart_in_pieces_is_refused() -> None:
    sampler = a_hart(more_smooth=False)
    with (
        hart.attach(sampler.model, 0.5),
        pytest.raises(ValueError, match=r"num_maskgit_iters must be 1.* got 8;"),
    ):
        sampler.model.autoregressive_infer_cfg(2, None, num_maskgit_iters=8)
    with pytest.raises(TypeError, match="num_iters"), hart.attach(sampler.model, 0.5):
        sampler.model.autoregressive_infer_cfg(2, None, num_iters=8)
