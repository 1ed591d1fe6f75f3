"""`infinitystar` on a stand-in of InfinityStar."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import infinity_kin
from support.generation_checks import CHECKS, check_guided, guided_scales
from support.guided_samplers import Sampler
from support.recorders import run
from torch import Tensor

from ssg_kernels.integrations import GuidanceWarning, infinitystar

CLIP = ((1, 1), (2, 2), (2, 3), (4, 5))


def an_infinitystar(
    frames: tuple[int, ...] = (1, 3, 2),
    cfgs: tuple[float, ...] = (2.0, 3.0, 4.0, 3.0),
    apg: bool = False,
    schedule: str = "infinity_elegant",
    most_repeats: int = 1000,
) -> Sampler:
    model = infinity_kin.Infinitystar()
    image, video, semantic = [2, 3, 1, 1], [3, 1, 2, 1], 3
    args = SimpleNamespace(
        dynamic_scale_schedule=schedule, image_scale_repetition=str(image), video_scale_repetition=str(video),
        max_repeat_times=most_repeats, semantic_scales=semantic, use_cfg=int(not apg), use_apg=int(apg),
        apg_norm_threshold=0.5,
    )  # fmt: skip
    sizes = [(t, h, w) for t in frames for h, w in CLIP]
    cfg_list, taus = list(cfgs) * len(frames), [1.0 - 0.06 * k for k in range(len(sizes))]

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        raw = raw.mul(1 / taus[scale])
        cfg = cfg_list[scale]
        if cfg == 1:
            return raw[:batch]
        if apg:
            return infinity_kin.normalized_guidance(raw[:batch], raw[batch:], cfg, args.apg_norm_threshold)
        return cfg * raw[:batch] + (1 - cfg) * raw[batch:]

    return Sampler(
        infinitystar.attach,
        model,
        lambda model, batch, seed: model.autoregressive_infer(
            args=args, scale_schedule=sizes, B=batch, g_seed=seed, cfg_list=cfg_list, tau_list=taus
        ),
        sizes,
        torch.Tensor,
        merge,
        makers=("get_logits_during_infer",),
        sampler="softmax",
        tokens=lambda handed, size: handed.view(len(handed), size[0] * size[1] * size[2], -1),
        repeats=[min(times, most_repeats) for k in range(len(frames)) for times in (video if k else image)],
    )


SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "video": an_infinitystar,
    "video-apg": functools.partial(an_infinitystar, apg=True),
    "image": functools.partial(an_infinitystar, (1,), most_repeats=2),
    "interact": functools.partial(
        an_infinitystar, (3,), (1.0, 3.0, 1.0, 2.0), schedule="infinity_star_interact"
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_infinitystar(name: str) -> None:
    check_guided(SAMPLERS[name])


@pytest.mark.parametrize("check", CHECKS[1:], ids=lambda check: check.__name__)
def test_infinitystar_in_threads_and_copies(check: Callable[..., None]) -> None:
    check(SAMPLERS["video-apg"])


@pytest.mark.parametrize("apg", [False, True])
def test_the_first_scale_of_a_clip_and_of_other_bits_are_not_guided(apg: bool) -> None:
    sampler = an_infinitystar(apg=apg)
    _, scales = run(sampler, beta=0.75)
    for k, scale in zip(sampler.scales, guided_scales(sampler, scales), strict=True):
        assert scale.handed is not None
        merged = sampler.merge(k, scale.raw, sampler.batch)
        is_guided = k % len(CLIP) in (1, 2)
        assert torch.equal(scale.handed.view_as(merged), merged) != is_guided


def test_none_of_its_scales_need_cfg() -> None:
    cfgs: Any = (1.0,) * 4
    sampler = an_infinitystar(cfgs=cfgs)
    assert run(sampler, beta=0.75)[1][0].raw.shape[0] == sampler.batch
    check_guided(lambda: sampler)


def test_a_loop_that_makes_its_logits_otherwise_is_told() -> None:
    sampler = an_infinitystar()
    other = infinity_kin.Infinitystar(seed=1)
    # Its loop is the other model's, and so are the logits.
    sampler.model.loop = other.loop
    with (
        pytest.warns(
            GuidanceWarning,
            match=r"get_logits_during_infer should make the logits of each scale \(calls: 0\)\. ",
        ),
        infinitystar.attach(sampler.model, 0.75),
    ):
        sampler.generate(sampler.model, 2, 0)


def test_either_loop_is_expected() -> None:
    sampler = an_infinitystar()
    assert infinitystar.attach(sampler.model, 0.5).methods == (
        "ar_infer_infinity_elegant",
        "ar_infer_infinity_star_interact",
    )
    with (
        pytest.warns(
            GuidanceWarning, match="ar_infer_infinity_elegant or .*ar_infer_infinity_star_interact was not"
        ),
        infinitystar.attach(sampler.model, 0.5),
    ):
        pass
