"""InfinityStar (FoundationVision/InfinityStar at 0446330): images and videos."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ssg_kernels.integrations._call import Hooks
from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations._next_scale import NextScale
from ssg_kernels.integrations._target import Function

__all__ = ["attach"]


class _Call(NextScale):
    """Guide an InfinityStar: inside the context `model.autoregressive_infer(...)` is guided, for images and videos.

    Each clip is a pyramid, its frames are guided apart, and all repeats of a scale have one prior. The first scale with
    the larger vocabulary is not guided. "after" guides what cfg or APG and the temperature make of the logits.
    """

    upstream = "FoundationVision/InfinityStar at 0446330"
    methods = ("ar_infer_infinity_elegant", "ar_infer_infinity_star_interact")
    maker = "get_logits_during_infer"
    sampler = ""
    needs = ()
    takes = ("scale_schedule", "cfg_list", "tau_list", "context_info")

    @classmethod
    def hooks(cls, cfg_order: str) -> Hooks:
        apg: Hooks = {Function("normalized_guidance"): cls.guide_apg} if cfg_order == "after" else {}
        return {**super().hooks(cfg_order), **apg}

    def start(self) -> None:
        scales, args = self.arguments["scale_schedule"], self.arguments["args"]
        image, video = json.loads(args.image_scale_repetition), json.loads(args.video_scale_repetition)
        times = (image + video * len(scales))[: len(scales)]
        self.begin([self.guidance.ssg(scales, [min(n, args.max_repeat_times) for n in times])])

    def merge(self, logits: Tensor) -> tuple[Tensor, float] | None:
        scale, batch = self.ssgs[0].step, self.arguments["B"]
        cfg, tau = self.arguments["cfg_list"][scale], self.arguments["tau_list"][scale]
        if cfg != 1 and self.arguments["args"].use_apg:
            return None
        cond, uncond = (part.mul(1 / tau) for part in (logits[:batch], logits[batch:]))
        return (cond if cfg == 1 else cfg * cond + (1 - cfg) * uncond), tau

    def guide_apg(self, merge: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        merged = merge(*args, **kwargs)
        if self.due:
            merged = self.due.pop()(merged)
            self.guided += 1
        return merged


attach = Integration(_Call)
