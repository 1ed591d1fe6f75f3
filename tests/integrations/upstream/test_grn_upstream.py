"""`grn` on the real GRN: its transformer and sampler, an image and a video, bits and indices."""

from __future__ import annotations

import importlib
import threading
import types
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.attach_checks import BETA, count_right
from support.checkouts import STATE, checkout, empty, private_to_threads, randomize
from support.denoiser_checks import Denoiser, check_everything, check_guided
from support.grn_checks import CFG, STEPS, TAU, TIME, a_denoiser
from torch import Tensor
from torch.nn import functional

TEXT, CHANNELS, ROUNDS = 24, 6, 2
FRAMES, HEIGHT, WIDTH = 2, 3, 5


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    softmax_scale: float,
    **_: Any,
) -> Tensor:
    """Each sequence by itself."""
    results = []
    q, k, v = (x.float().transpose(0, 1) for x in (q, k, v))
    for a, b, c, d in zip(
        cu_seqlens_q[:-1].tolist(), cu_seqlens_q[1:].tolist(), cu_seqlens_k[:-1].tolist(), cu_seqlens_k[1:].tolist(),
        strict=True,
    ):  # fmt: skip
        results.append(
            functional.scaled_dot_product_attention(q[:, a:b], k[:, c:d], v[:, c:d], scale=softmax_scale)
        )
    return torch.cat(results, 1).transpose(0, 1)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    stubs = empty("timm", "timm.models", "timm.models.layers", "pytz", "colorama", "wandb", "cv2", "imageio")
    stubs["timm.models"].register_model = lambda function: function
    flash = stubs["flash_attn"] = types.ModuleType("flash_attn")
    flash.flash_attn_varlen_func = flash_attn_varlen_func
    with checkout("GRN", stubs), pytest.MonkeyPatch.context() as patch:
        module = importlib.import_module("grn.models.grn")
        # Two lines of the sampler name the device.
        move = torch.Tensor.to
        patch.setattr(
            torch.Tensor,
            "to",
            lambda x, *a, **k: move(x, *["cpu" if one == "cuda" else one for one in a], **k),
        )
        yield SimpleNamespace(module=module, loop=importlib.import_module("grn.schedules.global_refine"))


def a_grn(upstream: Any, frames: int = FRAMES, mode: str = "ar_discrete_GRN_bit", seed: int = 0) -> Denoiser:
    levels = 2 if mode.endswith("bit") else 2**ROUNDS
    args = SimpleNamespace(
        detail_scale_dim=CHANNELS, detail_num_lvl=levels, hbq_round=ROUNDS, refine_mode=mode, pn="0.06M",
        dynamic_scale_schedule="GRN_vae_stride16", train_h_div_w_list="[]", video_frames=81, use_ada_layer_norm=0,
        temporal_compress_rate=4, add_scale_token=TIME, rope_type="3d", max_infer_steps=STEPS, min_infer_steps=STEPS,
        cfg_type="cfg_interval_0.0", complexity_aware_Tmax=STEPS, snr_shift=1.0, mapped_h_div_w_template=1.0, meta="",
    )  # fmt: skip
    torch.manual_seed(seed)
    model = upstream.module.GRN(
        SimpleNamespace(codebook_dim=CHANNELS), text_channels=TEXT, text_maxlen=8, embed_dim=32, depth=2, num_heads=2,
        num_key_value_heads=2, block_chunks=2, mlp_ratio=8, pn="0.06M", video_frames=81, inference_mode=True,
        other_args=args,
    ).eval()  # fmt: skip
    randomize(model, seed)
    with torch.no_grad():
        model.head.proj.weight.mul_(3)
    scales = [(frames, HEIGHT, WIDTH)]
    context = upstream.loop.get_scale_pack_info(scales, 0, args)

    def text(seed: int) -> Any:
        made = torch.Generator().manual_seed(seed)
        return torch.randn(5, TEXT, generator=made), [5], torch.tensor([0, 5]).int(), 5

    def generate(model: Any, batch: int, seed: int) -> Tensor:
        torch.manual_seed(seed)
        _, _, image = model.autoregressive_infer(
            vae=SimpleNamespace(decode=lambda codes, slice: codes), scale_schedule=scales, label_B_or_BLT=[text(1)],
            negative_label_B_or_BLT=text(2), cfg_list=[CFG], tau_list=[TAU], args=args,
            get_visual_rope_embeds=upstream.loop.get_visual_rope_embeds, context_info=context,
        )  # fmt: skip
        return image

    return a_denoiser(model, generate)


@pytest.mark.parametrize("frames", [1, FRAMES])
def test_grn(upstream: Any, frames: int) -> None:
    denoiser = a_grn(upstream, frames)
    check_everything(denoiser, [denoiser.model, denoiser.model.head])


def test_threads(upstream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model draws from the global generator: here each thread has its own."""
    denoiser = a_grn(upstream)
    private_to_threads(denoiser.model, [*STATE, "cached_split_cond_uncond", "entrophy_statistics"])
    generators = threading.local()
    seeded = torch.Generator.manual_seed
    monkeypatch.setattr(
        torch, "manual_seed", lambda seed: setattr(generators, "own", seeded(torch.Generator(), seed))
    )
    for name in ("rand", "randint", "multinomial"):
        draw = getattr(torch, name)
        monkeypatch.setattr(
            torch, name, lambda *a, draw=draw, **k: draw(*a, **{**k, "generator": generators.own})
        )
    with denoiser.attach(denoiser.model, BETA):
        assert count_right(denoiser, calls=3) == 12


def test_indices(upstream: Any) -> None:
    denoiser = a_grn(upstream, mode="ar_discrete_GRN_ind")
    levels = 2**ROUNDS

    def outcome(logits: Tensor) -> Tensor:
        cond, uncond = (half[:, :-TIME] for half in logits.unflatten(-1, (-1, levels)).chunk(2, 1))
        return ((uncond + CFG * (cond - uncond)) / TAU).reshape(1, -1, 2)

    denoiser.outcome = outcome
    check_guided(denoiser)
