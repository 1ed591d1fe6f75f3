"""`hmar` on a stand-in of HMAR."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support import standins
from support.generation_checks import CHECKS
from support.guided_samplers import Sampler, ramp
from torch import Tensor

from bench.schedules import square
from ssg_kernels.integrations import hmar


def an_hmar(cfg: float = 1.5) -> Sampler:
    model = standins.Hmar()
    merge = ramp(cfg, model.num_stages_minus_1)

    def also_refined(scale: int, raw: Tensor, batch: int) -> Tensor:
        if scale >= 0:
            return merge(scale, raw, batch)
        t = 1.5e-6
        return (1 + t) * raw[:batch] - t * raw[batch:]

    return Sampler(
        hmar.attach,
        model,
        lambda model, batch, seed: model.generate(
            batch, None, g_seed=seed, cfg=cfg, mask_schedule=[[], [2], [5, 3, 1], []]
        ),
        square(model.patch_nums),
        vars(standins),
        also_refined,
        makers=("get_ns_logits", "get_mask_logits"),
    )


SAMPLERS: dict[str, Callable[[], Sampler]] = {"hmar": an_hmar}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SAMPLERS)
def test_hmar(name: str, check: Callable[..., None]) -> None:
    check(SAMPLERS[name])
