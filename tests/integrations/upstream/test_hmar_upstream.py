"""`hmar` on the real HMAR, with the mask schedule that its d16 ships."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.checkouts import checkout, empty, randomize
from support.generation_checks import check_everything, check_two_models
from support.guided_samplers import Sampler
from support.recorders import run
from torch import Tensor

from bench.schedules import VAR_256, square
from ssg_kernels.integrations import hmar

VOCABULARY, CFG = 48, 1.5
MASKS = [[1], [1, 3], [1, 1, 2, 5], [16], [25], [36], [64], [100], [169], [256]]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    with checkout(
        "HMAR", empty("wandb", "pytz", "torchvision", "attn.block_sparse_attn_interface", "utils.arg_util")
    ):
        import models

        yield models


def an_hmar(upstream: Any, seed: int = 0) -> Sampler:
    torch.manual_seed(seed)
    vae = upstream.VQVAE(VOCABULARY, z_channels=8, ch=32, test_mode=True, v_patch_nums=VAR_256)
    model = upstream.HMAR(
        vae, num_classes=10, depth=3, embed_dim=32, num_heads=2, n_layers_train=1, patch_nums=VAR_256
    ).eval()
    randomize(model, seed)
    vae.fhat_to_img = lambda f_hat: f_hat.clone()

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        t = CFG * (scale / 9 if scale >= 0 else 1e-6)
        return (1 + t) * raw[:batch] - t * raw[batch:]

    return Sampler(
        hmar.attach,
        model,
        lambda model, batch, seed: model.generate(
            batch, torch.arange(batch), g_seed=seed, cfg=CFG, top_k=20, top_p=0.96, mask_schedule=MASKS
        ),
        square(VAR_256),
        vars(upstream.hmar),
        merge,
        makers=("get_ns_logits", "get_mask_logits"),
    )


def test_hmar(upstream: Any) -> None:
    sampler = an_hmar(upstream)
    _, scales = run(sampler, beta=0.5)
    assert [scale.maker for scale in scales].count("get_mask_logits") == 4
    check_everything(sampler)


def test_two_hmars(upstream: Any) -> None:
    check_two_models(an_hmar(upstream), an_hmar(upstream, seed=1))
