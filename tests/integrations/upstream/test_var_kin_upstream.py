"""`var` on the real FlexVAR, ImageFolder and VAR-CLIP. What comes after the sampler is stood in for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.checkouts import checkout, empty, randomize
from support.generation_checks import check_everything, check_two_models
from support.guided_samplers import Sampler, ramp
from torch import Tensor, nn
from torch.nn import functional

from bench.schedules import VAR_256, square
from ssg_kernels.integrations import var

VOCABULARY, CFG = 48, 2.5


def a_flexvar(module: Any, half: bool, seed: int = 0) -> Sampler:
    """Scales of the call, other than the model's; in bfloat16 under autocast, as it is shipped in float16."""
    sides, invalid = (1, 2, 3, 4, 5, 7, 10, 13, 16), torch.tensor([3, 30])
    torch.manual_seed(seed)
    vae = SimpleNamespace(
        Cvae=32,
        vocab_size=VOCABULARY,
        quantize=SimpleNamespace(embedding=nn.Embedding(VOCABULARY, 32)),
        decode_code=lambda idx, shape: idx,
    )
    model = module.FlexVAR(vae, num_classes=10, depth=2, embed_dim=32, num_heads=2, patch_nums=VAR_256).eval()
    randomize(model, seed)

    def generate(model: Any, batch: int, seed: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return model.autoregressive_infer_cfg(
                vae, batch, torch.arange(batch), sides, g_seed=seed, cfg=CFG, top_k=20, invalid_ids=invalid
            )

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        raw = raw.index_fill(2, invalid, -100.0)
        t = CFG * (scale / 8)
        return (1 + t) * raw[:batch] - t * raw[batch:]

    return Sampler(var.attach, model, generate, square(sides), vars(module), merge)


@pytest.mark.parametrize("half", [False, True])
def test_flexvar(half: bool) -> None:
    with checkout("FlexVAR", empty("models.vq_llama")):
        import models.flexvar

        check_everything(a_flexvar(models.flexvar, half))
        check_two_models(a_flexvar(models.flexvar, half), a_flexvar(models.flexvar, half, seed=1))


class TwoQuantizers:
    """ImageFolder's tokenizer, after the sampler: two codebooks, each of half the channels."""

    Cvae, vocab_size, product_quant = 8, 2 * VOCABULARY, 2

    def __init__(self) -> None:
        self.quantizes = [SimpleNamespace(embedding=nn.Embedding(VOCABULARY, 4)) for _ in range(2)]

    def get_next_autoregressive_input(
        self, scale: int, count: int, f_hat: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor]:
        f_hat = f_hat + functional.interpolate(h, f_hat.shape[-2:], mode="bicubic")
        side = VAR_256[min(scale + 1, count - 1)]
        return f_hat, functional.interpolate(f_hat, (side, side), mode="area")

    def fhat_to_img(self, f_hat: Tensor) -> Tensor:
        return f_hat.clone()


def an_imagefolder(module: Any, joint_sample: bool, seed: int = 0) -> Sampler:
    torch.manual_seed(seed)
    vae = TwoQuantizers()
    model = module.VAR(vae, num_classes=10, depth=2, embed_dim=32, num_heads=2, patch_nums=VAR_256).eval()
    randomize(model, seed)

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        t = CFG * (scale / 9)
        return (1 + t) * raw[:batch] - t * raw[batch:]

    return Sampler(
        var.attach,
        model,
        lambda model, batch, seed: model.autoregressive_infer_cfg(
            batch, torch.arange(batch), g_seed=seed, cfg=CFG, top_k=20, top_p=0.9, joint_sample=joint_sample
        ),
        square(VAR_256),
        vars(module),
        merge,
    )


@pytest.mark.parametrize("joint_sample", [False, True])
def test_imagefolder(joint_sample: bool) -> None:
    with checkout(
        "ImageFolder",
        empty("tokenizer", "tokenizer.tokenizer_image", "tokenizer.tokenizer_image.xqgan_model"),
    ):
        import models.var

        check_everything(an_imagefolder(models.var, joint_sample))
        check_two_models(
            an_imagefolder(models.var, joint_sample), an_imagefolder(models.var, joint_sample, seed=1)
        )


def a_var_clip(models: Any, more_smooth: bool, seed: int = 0) -> Sampler:
    """Text in place of classes."""
    torch.manual_seed(seed)
    vae = models.VQVAE(VOCABULARY, z_channels=8, ch=32, test_mode=True, v_patch_nums=VAR_256)
    model = models.VAR(vae, n_cond_embed=24, depth=2, embed_dim=32, num_heads=2, patch_nums=VAR_256).eval()
    randomize(model, seed)
    vae.fhat_to_img = lambda f_hat: f_hat.clone()

    def generate(model: Any, batch: int, seed: int) -> Tensor:
        text = torch.randn(batch, 24, generator=torch.Generator().manual_seed(1))
        return model.autoregressive_infer_cfg(
            batch, text, g_seed=seed, cfg=CFG, top_k=20, top_p=0.9, more_smooth=more_smooth
        )

    return Sampler(
        var.attach,
        model,
        generate,
        square(VAR_256),
        vars(models.var),
        ramp(CFG, 9),
        gain=lambda scale: 1 + scale / 9,
    )


@pytest.mark.parametrize("more_smooth", [False, True])
def test_var_clip(more_smooth: bool) -> None:
    with checkout("VAR-CLIP", empty("models.clip")):
        import models

        check_everything(a_var_clip(models, more_smooth))
        check_two_models(a_var_clip(models, more_smooth), a_var_clip(models, more_smooth, seed=1))
