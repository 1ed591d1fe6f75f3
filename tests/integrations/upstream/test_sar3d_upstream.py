"""`sar3d` on the code of SAR3D_reproduce: from an image and from a text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.attach_checks import check_threads
from support.checkouts import checkout, empty, private_to_threads, randomize
from support.generation_checks import check_everything, check_two_models
from support.guided_samplers import Sampler
from torch import Tensor, nn

from bench.schedules import VAR_256, square
from ssg_kernels.integrations import sar3d

VOCABULARY, CFG, SHORT = 48, 2.5, VAR_256[:4]
# The widths of the two encoders, whose empty prompts lie in files.
WIDTHS = {"image": (1024, 1024), "text": (768, 768)}


def load(path: str) -> np.ndarray:
    kind = "image" if "dino" in path else "text"
    pooled, width = WIDTHS[kind]
    shape = (pooled,) if "pooler" in path else (5 + (kind == "image"), width)
    return np.random.default_rng(len(path)).normal(size=shape).astype(np.float32)


def attention(q: Tensor, k: Tensor, v: Tensor, attn_bias: Any, p: float, scale: float) -> Tensor:
    """xformers' attention, (B, L, heads, c)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return (
        nn.functional.scaled_dot_product_attention(q, k, v, attn_bias, scale=scale)
        .transpose(1, 2)
        .contiguous()
    )


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    stubs = empty("ipdb", "nsr", "nsr.script_util", "huggingface_hub")
    stubs["huggingface_hub"].PyTorchModelHubMixin = type("PyTorchModelHubMixin", (), {})
    xformers = empty("xformers", "xformers.ops")
    xformers["xformers.ops"].memory_efficient_attention = attention
    stubs.update(xformers)
    with checkout("SAR3D_reproduce", stubs), pytest.MonkeyPatch.context() as patch:
        import models.var as module
        from vit.quant import VectorQuantizer2

        patch.setattr(np, "load", load)
        yield SimpleNamespace(module=module, quantizer=VectorQuantizer2)


class Upsampler(dict):
    """What comes after the quantizer: it is called by name, and is no matter here."""

    def __init__(self, quantize: nn.Module) -> None:
        super().__init__(post_quant_conv=lambda x: x, ldm_upsample=lambda x: x)
        self.quantize = quantize


def a_sar3d(
    upstream: Any, kind: str, sides: tuple[int, ...] = VAR_256, more_smooth: bool = False, seed: int = 0
) -> Sampler:
    torch.manual_seed(seed)
    quantizer = upstream.quantizer(VOCABULARY, 8, using_znorm=True, v_patch_nums=sides)
    decoder = SimpleNamespace(
        superresolution=Upsampler(quantizer), forward_vit_decoder=lambda planes, size: planes
    )
    model = getattr(upstream.module, "VAR" if kind == "image" else "VAR_text")(
        SimpleNamespace(decoder=decoder), depth=2, embed_dim=32, num_heads=2, patch_nums=sides
    ).eval()
    randomize(model, seed)
    model.vit_decode_postprocess = lambda planes: planes.float()
    stages = len(sides) - 1

    def generate(model: Any, batch: int, seed: int) -> Tensor:
        made = torch.Generator().manual_seed(1)
        pooled, width = WIDTHS[kind]
        prompts = torch.randn(batch, 5, width, generator=made), torch.randn(batch, pooled, generator=made)
        planes, tokens = getattr(model, f"autoregressive_infer_cfg_3D_VAR_{kind}_l2norm")(
            batch, *prompts, cfg=CFG, top_k=20, top_p=0.96, g_seed=seed, more_smooth=more_smooth
        )
        return torch.cat([planes.flatten(), tokens.flatten()])

    def apart(logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Each plane is a sample to the checks."""
        return logits.view(-1, size[0] * size[1], logits.shape[-1])

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        t = CFG * (scale / stages)
        cond, uncond = raw.chunk(2)
        return (1 + t) * cond - t * uncond

    sizes = square(sides)
    return Sampler(
        sar3d.attach,
        model,
        generate,
        sizes,
        vars(upstream.module),
        merge,
        source=lambda scale, raw: apart(raw, sizes[scale]),
        tokens=apart,
        gain=lambda scale: 1 + scale / stages,
    )


@pytest.mark.parametrize("more_smooth", [False, True])
@pytest.mark.parametrize("kind", WIDTHS)
def test_sar3d(upstream: Any, kind: str, more_smooth: bool) -> None:
    check_everything(a_sar3d(upstream, kind, more_smooth=more_smooth), [{}, {"rescale": True}])


def test_two_models_and_threads(upstream: Any) -> None:
    make: Callable[..., Sampler] = functools.partial(a_sar3d, upstream, "image", SHORT)
    check_two_models(make(), make(seed=1))

    def private() -> Sampler:
        sampler = make()
        private_to_threads(sampler.model)
        return sampler

    check_threads(private)
