"""`switti` on the real Switti pipeline, in bfloat16, which is what it ships with, and in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.checkouts import checkout, empty, randomize
from support.generation_checks import (
    check_after,
    check_before,
    check_everything,
    check_is_itself_again,
    check_two_models,
)
from support.guided_samplers import Sampler
from torch import Tensor, nn

from bench.schedules import VAR_256, VAR_512, square
from ssg_kernels.integrations import switti

VOCABULARY, CFG, TEXT = 48, 6.0, 5


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    pytest.importorskip("diffusers")
    pytest.importorskip("einops")
    import diffusers.models.embeddings

    assert diffusers.models.embeddings.GaussianFourierProjection
    stubs = empty("torchvision", "torchvision.transforms", "models.clip", "utils.arg_util")
    stubs["utils.arg_util"].RESOLUTION_PATCH_NUMS_MAPPING = {}
    with checkout("switti", stubs):
        import models

        yield models


class Text(nn.Module):
    """Random embeddings of the prompts, in the width of one of the two text encoders."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(64, TEXT, width))

    def encode(self, prompts: Any) -> Any:
        prompts = [prompts] if isinstance(prompts, str) else prompts

        class Output:
            last_hidden_state = self.table[[len(prompt) % 64 for prompt in prompts]]
            pooler_output = last_hidden_state[:, 0]
            attn_bias = torch.zeros(len(prompts), TEXT, dtype=self.table.dtype)

        return Output()


def a_switti(
    upstream: Any,
    dtype: torch.dtype,
    sides: tuple[int, ...] = VAR_256,
    off: int = 8,
    seed: int = 0,
    **options: Any,
) -> Sampler:
    torch.manual_seed(seed)
    vae = upstream.VQVAE(VOCABULARY, z_channels=8, ch=32, v_patch_nums=sides).eval()
    model = upstream.Switti(Cvae=8, V=VOCABULARY, depth=2, embed_dim=32, num_heads=2, patch_nums=sides)
    randomize(model, seed)
    pipe = upstream.SwittiPipeline(model, vae, Text(768), Text(1280), "cpu", dtype)
    vae.fhat_to_img = lambda f_hat: f_hat.clone()
    stages = len(sides) - 1

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        if scale >= off:
            return raw
        t = CFG * (scale / stages)
        return (1 + t) * raw[:batch] - t * raw[batch:]

    return Sampler(
        switti.attach,
        pipe,
        lambda pipe, batch, seed: pipe(
            ["a" * (k + 1) for k in range(batch)],
            seed=seed,
            cfg=CFG,
            top_k=20,
            turn_off_cfg_start_si=off,
            return_pil=False,
            **options,
        ),
        square(sides),
        vars(upstream.pipeline),
        merge,
        owner=model,
        gain=lambda scale: 1 + scale / stages,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_switti(upstream: Any, dtype: torch.dtype) -> None:
    check_everything(a_switti(upstream, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_switti_512(upstream: Any, dtype: torch.dtype) -> None:
    sampler = a_switti(upstream, dtype, VAR_512, off=10)
    check_after(sampler)
    check_before(sampler)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_switti_with_more_smooth(upstream: Any, dtype: torch.dtype) -> None:
    sampler = a_switti(upstream, dtype, more_smooth=True, smooth_start_si=2)
    scales = check_after(sampler)
    assert [scale.handed is None for scale in scales] == [2 <= k < 8 for k in range(10)]
    check_is_itself_again(sampler)


def test_two_swittis(upstream: Any) -> None:
    check_two_models(a_switti(upstream, torch.float32), a_switti(upstream, torch.float32, seed=1))
