"""`infinitystar` on the real InfinityStar: images, videos of several clips, and the interactive one's second clip."""

from __future__ import annotations

import importlib
import json
import types
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.attach_checks import BETA, count_right
from support.checkouts import checkout, empty, private_to_threads, randomize
from support.generation_checks import check_after, check_before, check_everything, check_two_models
from support.guided_samplers import Sampler
from torch import Tensor
from torch.nn import functional

from ssg_kernels.integrations import infinitystar

TEXT, SEMANTIC = 24, 11


def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float) -> Tensor:
    q, k, v = (x.float().transpose(1, 2) for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, scale=softmax_scale).transpose(1, 2)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    stubs = empty(
        "timm", "timm.models", "timm.models.layers", "timm.loss", "pytz", "colorama", "wandb", "cv2", "imageio",
    )  # fmt: skip
    stubs["timm.models"].register_model = lambda function: function
    flash = stubs["flash_attn"] = types.ModuleType("flash_attn")
    flash.flash_attn_func = flash.flash_attn_qkvpacked_func = flash_attn_func
    with checkout("InfinityStar", stubs):
        yield SimpleNamespace(
            module=importlib.import_module("infinity.models.infinity"),
            elegant=importlib.import_module("infinity.schedules.infinity_elegant"),
            interact=importlib.import_module("infinity.schedules.infinity_star_interact"),
            resolution=importlib.import_module("infinity.schedules.dynamic_resolution"),
        )


class Vae:
    """The tokenizer, after the sampler."""

    codebook_dim = 16

    def __init__(self) -> None:
        lfq = SimpleNamespace(indices_to_codes=self.codes)
        self.quantizer = SimpleNamespace(
            lfq_detail=lfq, lfq_semantic=lfq, detail_scale_min_tokens=350, z_interplote_up="trilinear",
            z_interplote_down="trilinear", other_args=SimpleNamespace(use_learnable_dim_proj=0),
        )  # fmt: skip

    @staticmethod
    def codes(bits: Tensor, label_type: str) -> Tensor:
        return 2.0 * bits.permute(0, 4, 1, 2, 3) - 1.0

    @staticmethod
    def decode(codes: Tensor, slice: bool) -> Tensor:
        return codes


def arguments(schedule: str, apg: bool, pixels: str, repetitions: tuple[list[int], list[int]]) -> Any:
    image, video = map(json.dumps, repetitions)
    return SimpleNamespace(
        dynamic_scale_schedule=schedule, image_scale_repetition=image, video_scale_repetition=video,
        max_repeat_times=10000, semantic_scales=SEMANTIC, use_cfg=int(not apg), use_apg=int(apg),
        apg_norm_threshold=0.05, frames_inner_clip=20, context_frames=1000, context_from_largest_no=1,
        context_interval=2, video_frames=81, pn=pixels, detail_scale_min_tokens=350, semantic_scale_dim=16,
        detail_scale_dim=64, use_two_stage_lfq=1, noise_input=0, simple_text_proj=1, rope_type="4d",
        temporal_compress_rate=4, steps_per_frame=3, mask_type=schedule, image_batch_size=1, video_batch_size=1,
        num_of_label_value=2, inject_sync=False,
    )  # fmt: skip


def an_infinitystar(
    upstream: Any,
    seconds: float = 1,
    apg: bool = True,
    schedule: str = "infinity_elegant_clip20frames_v2",
    pixels: str = "0.06M",
    seed: int = 0,
) -> Sampler:
    """At the smallest size, with fewer repeats of the large scales than are shipped."""
    resolutions, _ = upstream.resolution.get_dynamic_resolution_meta(schedule, 81)
    ratio = min(resolutions, key=lambda ratio: abs(ratio - 0.571))
    scales = resolutions[ratio][pixels]["pt2scale_schedule"][int(4 * seconds) + 1]
    clip = resolutions[ratio][pixels]["scales_in_one_clip"]
    repetitions = [3] * 3 + [2] * 3 + [1] * (clip - 6), [3, 2] + [1] * (clip - 2)
    args = arguments(schedule, apg, pixels, repetitions)
    is_second_clip = schedule == "infinity_star_interact"
    scales = scales[clip:] if is_second_clip else scales
    loop = upstream.interact if is_second_clip else upstream.elegant
    context = loop.get_scale_pack_info(scales, clip - 1, args)
    vae = Vae()
    torch.manual_seed(seed)
    model = upstream.module.Infinity(
        vae, text_channels=TEXT, text_maxlen=8, embed_dim=32, depth=2, num_heads=2, mlp_ratio=8, block_chunks=1,
        rope2d_each_sa_layer=1, rope2d_normalized_by_hw=2, pn=pixels, train_h_div_w_list=[0.571, 1.0], video_frames=81,
        inference_mode=True, other_args=args,
    ).eval()  # fmt: skip
    randomize(model, seed)
    with torch.no_grad():
        for head in (model.head, model.semantic_head2):
            head.weight.mul_(3)
    clips = len(scales) // clip
    cfgs = [2.0 + 0.25 * (k % 3) for k in range(len(scales))]
    taus = [0.5 if is_second_clip else 1.0 if k < clip else 0.4 for k in range(len(scales))]

    def generate(model: Any, batch: int, seed: int) -> Tensor:
        text = torch.randn(5, TEXT, generator=torch.Generator().manual_seed(1))
        extra: dict[str, Any] = {}
        if is_second_clip:
            t, h, w = scales[-1]
            features = torch.randn(1, 16, 1 + t, h, w, generator=torch.Generator().manual_seed(2))
            extra = {"former_clip_features": features, "first_frame_features": features[:, :, :1]}
            extra["mode"] = "second_v_clip"
        # Decoding wants a second frame.
        is_image = len(scales) == clip and not is_second_clip
        result = model.autoregressive_infer(
            args=args, vae=vae, scale_schedule=scales, label_B_or_BLT=(text, [5], torch.tensor([0, 5]).int(), 5), B=1,
            g_seed=seed, cfg_list=cfgs, tau_list=taus, get_visual_rope_embeds=loop.get_visual_rope_embeds,
            context_info=context, gt_leak=-1, return_summed_code_only=is_image, **extra,
        )  # fmt: skip
        return result if is_image else result[1]

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        raw = raw.mul(1 / taus[scale])
        if apg:
            return upstream.module.normalized_guidance(
                raw[:1], raw[1:], guidance_scale=cfgs[scale], momentum_buffer=None, eta=0, norm_threshold=0.05
            )
        return cfgs[scale] * raw[:1] + (1 - cfgs[scale]) * raw[1:]

    return Sampler(
        infinitystar.attach,
        model,
        generate,
        scales,
        torch.Tensor,
        merge,
        makers=("get_logits_during_infer",),
        sampler="softmax",
        tokens=lambda handed, size: handed.view(1, size[0] * size[1] * size[2], -1),
        batch=1,
        batches=(1,),
        repeats=(repetitions[0] + repetitions[1] * clips)[: len(scales)],
    )


@pytest.mark.parametrize("apg", [False, True])
def test_video(upstream: Any, apg: bool) -> None:
    sampler = an_infinitystar(upstream, apg=apg)
    assert {size[0] for size in sampler.sizes} == {1, 4}
    check_everything(sampler)
    check_two_models(sampler, an_infinitystar(upstream, apg=apg, seed=1))


def test_the_second_interactive_clip(upstream: Any) -> None:
    sampler = an_infinitystar(upstream, 5, apg=False, schedule="infinity_star_interact")
    check_after(sampler)
    check_before(sampler)


def test_an_image_whose_vocabulary_changes(upstream: Any) -> None:
    sampler = an_infinitystar(upstream, 0, pixels="0.40M")
    raw = check_after(sampler)
    assert {scale.raw.shape[-1] for scale in raw} == {32, 128}


@pytest.mark.parametrize("cfg_order", ["after", "before"])
def test_threads(upstream: Any, cfg_order: str) -> None:
    sampler = an_infinitystar(upstream)
    private_to_threads(sampler.model)
    with infinitystar.attach(sampler.model, BETA, cfg_order=cfg_order):
        assert count_right(sampler, calls=2) == 8
