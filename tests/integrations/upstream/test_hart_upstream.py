"""`hart` on the real HART, with `more_smooth` on, as it ships, and off; and on FastVAR's."""

from __future__ import annotations

import importlib
import math
import types
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.checkouts import checkout, empty, randomize
from support.generation_checks import check_everything, check_two_models
from support.guided_samplers import Sampler
from torch import Tensor
from torch.nn import functional

from bench.schedules import VAR_256, square
from ssg_kernels.integrations import hart

VOCABULARY, CFG, TEXT, WIDTH = 640, 4.5, 12, 16


def rms_norm(out: Tensor, x: Tensor, weight: Tensor, eps: float, use_quant: bool) -> None:
    """HART's kernel."""
    out.copy_(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight)


def prune(monkeypatch: pytest.MonkeyPatch) -> None:
    """FastVAR leaves out tokens within the blocks at 48 and 64: here it does at 13 and 16."""
    basic = importlib.import_module("hart.modules.networks.fastvar_basic")
    utils = importlib.import_module("hart.modules.networks.fastvar_utils")

    def compute_merge(x: Tensor, is_later_layer: bool) -> Any:
        side = math.isqrt(x.shape[1])
        if side not in (13, 16):
            return (utils.do_nothing,) * 3
        return utils.masked_previous_scale_cache(x, side, x.shape[1] - x.shape[1] // 2)

    monkeypatch.setattr(basic, "compute_merge", compute_merge)
    # Its attention without a kernel takes heads for positions.
    monkeypatch.setattr(basic, "memory_efficient_attention", memory_efficient_attention)


def memory_efficient_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_bias: Any, p: float, scale: float
) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return (
        functional.scaled_dot_product_attention(q, k, v, attn_bias, scale=scale).transpose(1, 2).contiguous()
    )


@pytest.fixture(scope="module", params=["hart", "FastVAR"])
def upstream(request: pytest.FixtureRequest) -> Iterator[Any]:
    pytest.importorskip("transformers")
    name = request.param
    backend, kernels = types.ModuleType("hart_backend"), types.ModuleType("hart_backend.fused_kernels")
    backend.fused_kernels, kernels.rms_norm = kernels, rms_norm
    stubs = {"hart_backend": backend, "hart_backend.fused_kernels": kernels}
    stubs |= empty("hart.utils.safety_check", "flash_attn")
    with (
        checkout(name, stubs, "HART" if name == "FastVAR" else ""),
        pytest.MonkeyPatch.context() as patch,
    ):
        # HART moves what it makes to the GPU by hand.
        for kind in (torch.Tensor, torch.nn.Module):
            patch.setattr(kind, "cuda", lambda self, *_, **__: self)
        import hart.modules.models.autoencoder as autoencoder
        import hart.modules.models.transformer.hart_transformer_t2i as module

        def from_pretrained(path: Any) -> Any:
            config = autoencoder.HARTAutoEncoderConfig(
                vocab_size=VOCABULARY, z_channels=8, ch=32, v_patch_nums=VAR_256, quantizer_type="var_hybrid",
                hybrid=True, disable_quant_resi=True, test_mode=True,
            )  # fmt: skip
            return SimpleNamespace(vae=autoencoder.HARTAutoEncoder(config))

        if name == "FastVAR":
            prune(patch)
        patch.setattr(module.HARTAutoEncoderWithDisc, "from_pretrained", from_pretrained)
        yield module


def a_hart(module: Any, more_smooth: bool, seed: int = 0) -> Sampler:
    torch.manual_seed(seed)
    config = module.HARTForT2IConfig(
        vae_path="", context_token=TEXT, context_dim=WIDTH, depth=2, embed_dim=32, num_heads=2, patch_nums=VAR_256,
        attn_type="llama", mlp_type="llama", disable_aln=True, diff_width=32, diff_depth=1, num_sampling_steps="2",
    )  # fmt: skip
    model = module.HARTForT2I(config).eval()
    randomize(model, seed)
    if hasattr(module, "FastVARAdaLNSelfAttn"):
        for block in model.blocks:
            block.attn.using_xform, block.cache_scale_step = True, [10, 10]
    model.vae_proxy[0].fhat_to_img = lambda f_hat: f_hat.clone()
    stages = len(VAR_256) - 1

    def generate(model: Any, batch: int, seed: int) -> Tensor:
        # The order of the last scale and the diffusion head's noise come from the global generators.
        torch.manual_seed(seed)
        np.random.seed(seed)
        text = torch.randn(batch, TEXT, WIDTH, generator=torch.Generator().manual_seed(1))
        return model.autoregressive_infer_cfg(
            B=batch,
            label_B=text,
            cfg=CFG,
            g_seed=seed,
            more_smooth=more_smooth,
            context_position_ids=torch.arange(TEXT).repeat(batch, 1),
            context_mask=torch.ones(batch, TEXT, dtype=torch.long),
        )

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        # The last scale is merged with the ratio of the one before.
        t = CFG * (min(scale, stages - 1) / stages)
        return (1 + t) * raw[:batch] - t * raw[batch:]

    return Sampler(
        hart.attach,
        model,
        generate,
        square(VAR_256),
        vars(module),
        merge,
        source=lambda scale, raw: raw if scale else raw[:, -1:],
        gain=lambda scale: 1 + min(scale, stages - 1) / stages,
    )


@pytest.mark.parametrize("more_smooth", [True, False])
def test_hart(upstream: Any, more_smooth: bool) -> None:
    check_everything(a_hart(upstream, more_smooth))


def test_two_harts(upstream: Any) -> None:
    check_two_models(a_hart(upstream, True), a_hart(upstream, True, seed=1))


def test_the_last_scale_in_pieces_is_refused(upstream: Any) -> None:
    model = a_hart(upstream, True).model
    with hart.attach(model, 0.5), pytest.raises(ValueError, match="num_maskgit_iters must be 1"):
        model.autoregressive_infer_cfg(1, torch.zeros(1, TEXT, WIDTH), num_maskgit_iters=2)
