"""Stand-ins for what came after Infinity: InfinityStar, VARGPT-v1.1, TokenFlow and GRN."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from support import standins
from support.standins import (
    CHANNELS,
    VOCABULARY,
    sample_with_top_k_top_p_,
    sample_with_top_k_top_p_also_inplace_modifying_logits_,
)

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


class Grn(standins.NextScale):
    """One grid of bits that is drawn anew in each step. Both halves are one row; a token of the time follows each."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.blocks = nn.Tanhshrink()

    def get_logits_during_infer(self, hidden_states: Tensor, e: Any = None) -> Tensor:
        return 3 * hidden_states @ self.head

    @torch.no_grad()
    def autoregressive_infer(
        self, vae: Any = None, scale_schedule: Any = None, g_seed: int | None = None, cfg_list: Sequence[float] = (),
        tau_list: Sequence[float] = (), args: Any = None, noise_list: Any = None, class_token_id: int = 0,
    ) -> Tensor:  # fmt: skip
        # Upstream draws from the global generator, which calls at the same time would share.
        rng = torch.Generator().manual_seed(g_seed or 0)
        (grid,) = scale_schedule
        tokens, bits = math.prod(grid), self.head.shape[1] // 2
        labels = torch.randint(2, (1, tokens, bits), generator=rng)
        for step in range(args.max_infer_steps):
            time = torch.full((1, args.add_scale_token, CHANNELS), step / args.max_infer_steps)
            state = self.network(self.class_emb[:1], tokens) + (2.0 * labels - 1.0) @ self.codebook[:bits]
            halves = [torch.cat([state + half, time], 1) for half in self.class_emb[-2:]]
            logits = self.get_logits_during_infer(torch.sin(self.blocks(torch.cat(halves, 1))))
            logits = logits.reshape(1, logits.shape[1], -1, 2)
            cond, uncond = logits[:, :tokens], logits[:, tokens + args.add_scale_token :][:, :tokens]
            merged = (uncond + cfg_list[0] * (cond - uncond)).mul(1 / tau_list[0])
            drawn = torch.multinomial(merged.softmax(dim=-1).view(-1, 2), 1, generator=rng).view_as(labels)
            labels = torch.where(torch.rand(labels.shape, generator=rng) < 0.8, drawn, labels)
        return labels


class Tokenflow(standins.NextScale):
    """A language model: its logits are of all positions and ids. It predicts a scale as often as `topk_list` says."""

    def __init__(self, first_id: int = 5, **options: Any) -> None:
        super().__init__(vocabulary=first_id + VOCABULARY, **options)
        self.register_buffer("image_token_start", torch.tensor(first_id))

    def get_vision_tower(self) -> Any:
        return SimpleNamespace(scale_rq_layers=list(self.patch_nums))

    def forward(self, inputs_embeds: Tensor, return_dict: bool = True) -> tuple[Tensor, None]:
        return 3 * torch.tanh(inputs_embeds) @ self.head, None

    @torch.no_grad()
    def autoregressive_infer_cfg(
        self, B: int, prefix_text_codes: list[Tensor], g_seed: int | None = None, cfg: float = 1.5,
        topk_list: Sequence[int] = (600,), topp_list: Sequence[float] = (0.6,),
    ) -> Tensor:  # fmt: skip
        rng, _, _ = self.start(B, g_seed)
        codes, lengths = prefix_text_codes, [len(text) - 1 for text in prefix_text_codes]
        starts = [len(text) for text in prefix_text_codes]
        for si, pn in enumerate(self.patch_nums):
            tokens = pn * pn
            for loop in range(len(topk_list) if si else 1):
                # The model sees what it drew for this scale before.
                longest = max(lengths) + (tokens if loop == 0 else 0)
                rows = [torch.cat([code, code.new_zeros(longest)])[:longest] for code in codes]
                embedded = self.codebook[torch.stack(rows)].cumsum(1) / 3
                hidden = embedded + self.positions[:longest] + loop
                logits = self.forward(inputs_embeds=hidden, return_dict=False)[0]
                first = [length - (0 if loop == 0 else tokens) for length in lengths]
                logits = torch.stack([row[a : a + tokens] for row, a in zip(logits, first, strict=True)])
                t = cfg * (si / self.num_stages_minus_1)
                logits = (1 + t) * logits[:B] - t * logits[B:]
                logits[..., : self.image_token_start] = -math.inf
                drawn = sample_with_top_k_top_p_(
                    logits, rng=rng, top_k=topk_list[loop], top_p=topp_list[loop]
                )[..., 0]
                for b in range(2 * B):
                    kept = codes[b] if loop == 0 else codes[b][:-tokens]
                    codes[b] = torch.cat([kept, drawn[b % B]])
                if loop == 0:
                    lengths = [length + tokens for length in lengths]
        return torch.stack([code[start:] for code, start in zip(codes[:B], starts, strict=False)])


class Vargpt(nn.Module):
    """A language model with an Infinity inside: the loop is the model's, and the logits are the Infinity's."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.vargpt_gen = standins.Infinity(**options)

    @torch.no_grad()
    def autoregressive_infer_cfg(
        self, scale_schedule: Any = None, B: int = 1, g_seed: int | None = None, cfg_list: Sequence[float] = (),
        tau_list: Sequence[float] = (), top_k: int = 0, top_p: float = 0.0, cfg_insertion_layer: Sequence[int] = (-5,),
    ) -> Tensor:  # fmt: skip
        gen = self.vargpt_gen
        rng, cond, state = gen.start(B, g_seed)
        chosen = []
        for si, pn in enumerate(scale_schedule):
            hidden = gen.network(state, math.prod(pn))
            logits = gen.get_logits(hidden, cond).mul(1 / tau_list[si])
            logits = cfg_list[si] * logits[:B] + (1 - cfg_list[si]) * logits[B:]
            bits = sample_with_top_k_top_p_also_inplace_modifying_logits_(
                logits.reshape(B, -1, 2), rng=rng, top_k=min(top_k, 2), top_p=top_p, num_samples=1
            ).view(B, math.prod(pn), -1)
            chosen.append(bits)
            state = gen.advance(state, 2.0 * bits - 1.0)
        return torch.cat(chosen, 1)


MODELS: dict[str, Callable[[], Any]] = {
    "grn": Grn,
    "infinitystar": Infinitystar,
    "tokenflow": Tokenflow,
    "vargpt": Vargpt,
}
