"""Infinity on its own code, and what others build on it: small random models, and a stand-in for the tokenizer."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssg_kernels.integrations import infinity
from support.checkouts import checkout, empty, randomize
from support.guided_samplers import Sampler

TEXT, CFG = 128, 3.0


def flash_attn_func(*_: Any, **__: Any) -> Tensor:
    raise NotImplementedError("Infinity calls its own attention, unless it is built for another flash-attn")


def flash_attn_varlen_kvpacked_func(
    q: Tensor, kv: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, softmax_scale: float, **_: Any
) -> Tensor:
    """Attention of each sequence to its own text."""
    results = []
    for (a, b), (c, d) in zip(pairs(cu_seqlens_q), pairs(cu_seqlens_k), strict=True):
        k, v = kv[c:d].transpose(0, 2).unbind(1)
        results.append(
            functional.scaled_dot_product_attention(
                q[a:b].transpose(0, 1)[None], k[None], v[None], scale=softmax_scale
            )[0].transpose(0, 1)
        )
    return torch.cat(results)


def pairs(ends: Tensor) -> list[tuple[int, int]]:
    return list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))


@contextmanager
def infinity_of(name: str, part: str = "") -> Iterator[Any]:
    """The modules of a checkout that is or has an Infinity."""
    stubs = empty(
        "timm", "timm.models", "timm.models.layers", "timm.loss", "pytz", "colorama", "wandb", "flash_attn"
    )
    stubs["timm.models"].register_model = lambda function: function
    stubs["timm.loss"].SoftTargetCrossEntropy = nn.CrossEntropyLoss
    flash = stubs["flash_attn"] = types.ModuleType("flash_attn")
    flash.flash_attn_func = flash_attn_func
    flash.flash_attn_varlen_kvpacked_func = flash_attn_varlen_kvpacked_func
    with checkout(name, stubs, part):
        import infinity.models.infinity as module
        from infinity.utils.dynamic_resolution import dynamic_resolution_h_w

        yield SimpleNamespace(module=module, schedules=dynamic_resolution_h_w)


def schedule(upstream: Any, ratio: float, pixels: str) -> list[tuple[int, int, int]]:
    """As `run_infinity.py` makes it."""
    return [(1, h, w) for _, h, w in upstream.schedules[ratio][pixels]["scales"]]


class Vae:
    """The bitwise tokenizer, after the sampler."""

    def __init__(self, bits: int) -> None:
        self.embed_dim = bits
        lfq = SimpleNamespace(mask=None, indices_to_codes=self.codes)
        self.quantizer = SimpleNamespace(lfq=lfq, z_interplote_up="trilinear")

    @staticmethod
    def codes(bits: Tensor, label_type: str) -> Tensor:
        return 2.0 * bits.permute(0, 4, 1, 2, 3) - 1.0

    @staticmethod
    def decode(codes: Tensor) -> Tensor:
        return codes


def an_infinity(
    upstream: Any,
    ratio: float = 1.0,
    pixels: str = "0.06M",
    bits: int = 32,
    patchify: int = 0,
    cfgs: Any = CFG,
    layers: Any = (0,),
    model: Any = None,
    seed: int = 0,
    method: str = "autoregressive_infer_cfg",
    attach: Any = infinity.attach,
    **arguments: Any,
) -> Sampler:
    scales = schedule(upstream, ratio, pixels)
    vae = Vae(bits)
    if model is None:
        torch.manual_seed(seed)
        model = upstream.module.Infinity(
            vae, text_channels=TEXT, text_maxlen=8, embed_dim=64, depth=2, num_heads=2, block_chunks=2, shared_aln=True,
            rope2d_each_sa_layer=1, rope2d_normalized_by_hw=2, pn=pixels, apply_spatial_patchify=patchify,
            use_bit_label=1, inference_mode=True,
        ).eval()  # fmt: skip
        randomize(model, seed)
        # `randomize` leaves the head's logits small.
        with torch.no_grad():
            model.head.weight.mul_(3)
    cfgs = [cfgs] * len(scales) if isinstance(cfgs, float) else cfgs
    taus = [0.5 + 0.05 * k for k in range(len(scales))]

    def generate(model: Any, batch: int, seed: int) -> Tensor:
        lens = [3 + k for k in range(batch)]
        text = torch.randn(sum(lens), TEXT, generator=torch.Generator().manual_seed(1))
        ends = torch.tensor([0, *lens]).cumsum(0).int()
        _, _, image = getattr(model, method)(
            vae=vae, scale_schedule=scales, label_B_or_BLT=(text, lens, ends, max(lens)), B=batch, g_seed=seed,
            cfg_list=cfgs, tau_list=taus, top_k=900, top_p=0.97, returns_vemb=1, cfg_insertion_layer=list(layers),
            vae_type=bits, ret_img=True, inference_mode=True, **arguments,
        )  # fmt: skip
        return image

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        raw = raw.mul(1 / taus[scale])
        if len(raw) == batch:
            return raw
        return cfgs[scale] * raw[:batch] + (1 - cfgs[scale]) * raw[batch:]

    return Sampler(
        attach,
        model,
        generate,
        [(h, w) for _, h, w in scales],
        vars(upstream.module),
        merge,
        sampler="sample_with_top_k_top_p_also_inplace_modifying_logits_",
        tokens=lambda handed, size: handed.view(len(handed), size[0] * size[1], -1),
        batch=1,
    )
