"""`vargpt` on a stand-in of VARGPT-v1.1."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support import infinity_kin
from support.generation_checks import CHECKS
from support.guided_samplers import Sampler
from torch import Tensor

from ssg_kernels.integrations import vargpt

GRIDS = ((1, 1), (2, 2), (3, 2), (6, 4))


def a_vargpt() -> Sampler:
    model = infinity_kin.Vargpt()
    cfgs, taus = [3.0, 3.0, 2.0, 4.0], [1.0, 0.5, 0.75, 0.5]

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        raw = raw.mul(1 / taus[scale])
        return cfgs[scale] * raw[:batch] + (1 - cfgs[scale]) * raw[batch:]

    return Sampler(
        vargpt.attach,
        model,
        lambda model, batch, seed: model.autoregressive_infer_cfg(
            [(1, h, w) for h, w in GRIDS], B=batch, g_seed=seed, cfg_list=cfgs, tau_list=taus, top_k=900, top_p=0.97,
            cfg_insertion_layer=[0],
        ),
        GRIDS,
        vars(infinity_kin),
        merge,
        owner=model.vargpt_gen,
        sampler="sample_with_top_k_top_p_also_inplace_modifying_logits_",
        tokens=lambda handed, size: handed.view(len(handed), size[0] * size[1], -1),
    )  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_vargpt(check: Callable[..., None]) -> None:
    check(a_vargpt)


def test_text_is_not_touched() -> None:
    """Only calls of the sampling method are guided."""
    model = infinity_kin.Vargpt()
    call = {"B": 1, "g_seed": 0, "cfg_list": [3.0] * 4, "tau_list": [1.0] * 4, "cfg_insertion_layer": [0]}
    call |= {"scale_schedule": [(1, h, w) for h, w in GRIDS], "top_p": 1.0}
    plain = model.vargpt_gen.autoregressive_infer_cfg(**call)
    with vargpt.attach(model, 0.75):
        assert torch.equal(model.vargpt_gen.autoregressive_infer_cfg(**call), plain)
        assert not torch.equal(model.autoregressive_infer_cfg(**call), plain)
