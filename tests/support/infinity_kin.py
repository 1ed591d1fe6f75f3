"""Stand-ins for what came after Infinity: InfinityStar, VARGPT-v1.1, TokenFlow and GRN."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from support import standins
from support.standins import CHANNELS

SEMANTIC_BITS, DETAIL_BITS = 4, CHANNELS


def normalized_guidance(
    pred_cond: Tensor, pred_uncond: Tensor, guidance_scale: float, norm_threshold: float
) -> Tensor:
    """APG: what the conditional half adds is clipped, and only its part that is orthogonal to that half is used."""
    added = pred_cond - pred_uncond
    size = added.square().mean([-1, -2], keepdim=True).sqrt()
    added = added * (norm_threshold / size).clamp(max=1)
    along = pred_cond / pred_cond.norm(dim=[-1, -2], keepdim=True)
    return pred_cond + (guidance_scale - 1) * (added - (added * along).sum([-1, -2], keepdim=True) * along)


class Infinitystar(standins.NextScale):
    """Clips that start again, scales that repeat, frames, bits that become more; cfg or APG, and a draw in the loop."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        made = torch.Generator().manual_seed(options.get("seed", 0) + 1)
        self.semantic_head2 = nn.Parameter(torch.randn(CHANNELS, 2 * SEMANTIC_BITS, generator=made))

    def get_logits_during_infer(self, x_BLC: Tensor, is_semantic_scale: bool) -> Tensor:
        return 3 * x_BLC @ (self.semantic_head2 if is_semantic_scale else self.head)

    def autoregressive_infer(self, args: Any = None, **kwargs: Any) -> Tensor:
        is_elegant = "infinity_elegant" in args.dynamic_scale_schedule
        loop = self.ar_infer_infinity_elegant if is_elegant else self.ar_infer_infinity_star_interact
        return loop(args=args, **kwargs)

    def ar_infer_infinity_elegant(
        self, vae: Any = None, scale_schedule: Any = None, B: int = 1, g_seed: int | None = None,
        cfg_list: Sequence[float] = (), tau_list: Sequence[float] = (), args: Any = None, context_info: Any = None,
    ) -> Tensor:  # fmt: skip
        return self.loop(scale_schedule, B, g_seed, cfg_list, tau_list, args)

    def ar_infer_infinity_star_interact(
        self, vae: Any = None, scale_schedule: Any = None, B: int = 1, g_seed: int | None = None,
        cfg_list: Sequence[float] = (), tau_list: Sequence[float] = (), args: Any = None, context_info: Any = None,
        mode: str = "",
    ) -> Tensor:  # fmt: skip
        return self.loop(scale_schedule, B, g_seed, cfg_list, tau_list, args)

    @torch.no_grad()
    def loop(
        self, scales: Any, B: int, g_seed: int | None, cfgs: Sequence[float], taus: Sequence[float], args: Any
    ) -> Tensor:
        rng, cond, state = self.start(B, g_seed)
        if all(cfg == 1 for cfg in cfgs):
            cond = state = cond[:B]
        repetitions = [json.loads(args.image_scale_repetition), json.loads(args.video_scale_repetition)]
        chosen = []
        for si, pn in enumerate(scales):
            clip, scale = divmod(si, len(repetitions[0]))
            for _ in range(min(repetitions[clip > 0][scale], args.max_repeat_times)):
                hidden = self.network(state, math.prod(pn)) + 0.2 * cond[:, None]
                logits = self.get_logits_during_infer(hidden, scale < args.semantic_scales).mul(1 / taus[si])
                if cfgs[si] == 1:
                    logits = logits[:B]
                elif args.use_cfg:
                    logits = cfgs[si] * logits[:B] + (1 - cfgs[si]) * logits[B:]
                else:
                    logits = normalized_guidance(logits[:B], logits[B:], cfgs[si], args.apg_norm_threshold)
                probabilities = logits.reshape(B, -1, 2).softmax(dim=-1)
                bits = torch.multinomial(probabilities.view(-1, 2), 1, generator=rng).view(
                    *logits.shape[:2], -1
                )
                chosen.append(bits.flatten(1))
                state = self.advance(state, (2.0 * bits - 1.0) @ self.codebook[: bits.shape[-1]])
        return torch.cat(chosen, 1)
