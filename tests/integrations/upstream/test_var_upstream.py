"""`var` on the real VAR, at 256 and 512, and on what samples as it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.checkouts import checkout, randomize
from support.generation_checks import check_after, check_everything, check_two_models
from support.guided_samplers import Sampler
from torch import Tensor

from bench.schedules import VAR_256, VAR_512, square
from ssg_kernels.integrations import var

VOCABULARY, CFG = 48, 1.5


def merge(stages: int, cfg: float = CFG) -> Callable[[int, Tensor, int], Tensor]:
    def merged(scale: int, raw: Tensor, batch: int) -> Tensor:
        t = cfg * (scale / stages)
        return (1 + t) * raw[:batch] - t * raw[batch:]

    return merged


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    with checkout("VAR"):
        import models

        yield models


def a_var(upstream: Any, patch_nums: tuple[int, ...], more_smooth: bool = False, seed: int = 0) -> Sampler:
    torch.manual_seed(seed)
    vae = upstream.VQVAE(VOCABULARY, z_channels=8, ch=32, test_mode=True, v_patch_nums=patch_nums)
    model = upstream.VAR(
        vae, num_classes=10, depth=2, embed_dim=32, num_heads=2, patch_nums=patch_nums, shared_aln=bool(seed)
    ).eval()
    randomize(model, seed)
    # What the decoder makes of the tokens is no matter here.
    vae.fhat_to_img = lambda f_hat: f_hat.clone()
    stages = len(patch_nums) - 1
    return Sampler(
        var.attach,
        model,
        lambda model, batch, seed: model.autoregressive_infer_cfg(
            batch, torch.arange(batch), g_seed=seed, cfg=CFG, top_k=20, top_p=0.96, more_smooth=more_smooth
        ),
        square(patch_nums),
        vars(upstream.var),
        merge(stages),
        gain=lambda scale: 1 + scale / stages,
    )


@pytest.mark.parametrize("more_smooth", [False, True])
def test_var_256(upstream: Any, more_smooth: bool) -> None:
    check_everything(a_var(upstream, VAR_256, more_smooth))


@pytest.mark.parametrize("more_smooth", [False, True])
def test_var_512(upstream: Any, more_smooth: bool) -> None:
    check_after(a_var(upstream, VAR_512, more_smooth, seed=1))


def test_two_vars(upstream: Any) -> None:
    sides = VAR_256[:6]
    check_two_models(a_var(upstream, sides), a_var(upstream, sides, seed=1))
