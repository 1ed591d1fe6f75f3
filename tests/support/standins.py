"""Stand-ins for the samplers of other projects: tiny random models, and loops in the order upstream calls things.

What a real one does and an integration has to stand is here: cfg's ramp, the mask in place, `more_smooth`, which
reads the logits again, the shapes and the layouts. The networks are nothing but random projections.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY, CHANNELS, CLASSES, TEXT = 12, 6, 4, 7


def sample_with_top_k_top_p_(
    logits: Tensor,
    top_k: int = 0,
    top_p: float = 0.0,
    rng: Any = None,
    num_samples: int = 1,
    return_p: bool = False,
) -> Tensor:
    """Masks all but the largest in place, then draws."""
    kept = top_k or max(1, round(top_p * logits.shape[-1]))
    least = logits.sort(dim=-1, descending=True).values[..., kept - 1 : kept]
    logits.masked_fill_(logits < least, -math.inf)
    probabilities = logits.softmax(-1)
    if return_p:
        return probabilities
    rows = probabilities.flatten(0, 1)
    return torch.multinomial(rows, num_samples, True, generator=rng).view(*logits.shape[:2], num_samples)


def gumbel_softmax_with_rng(logits: Tensor, tau: float, hard: bool, dim: int, rng: Any) -> Tensor:
    noise = -torch.empty_like(logits).exponential_(generator=rng).log()
    return ((logits + noise) / tau).softmax(dim)


sample_with_top_k_top_p_also_inplace_modifying_logits_ = sample_with_top_k_top_p_


class NextScale(nn.Module):
    """What the loops share: a network whose logits depend on the class, the scale and the tokens so far."""

    def __init__(
        self, patch_nums: Sequence[int] = (1, 2, 3, 5), vocabulary: int = VOCABULARY, seed: int = 0
    ) -> None:
        super().__init__()
        self.patch_nums = tuple(patch_nums)
        self.num_stages_minus_1 = len(self.patch_nums) - 1
        made = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=made))

        self.class_emb = normal(CLASSES + 1, CHANNELS)
        self.codebook = normal(vocabulary, CHANNELS)
        self.positions = normal(8192, CHANNELS)
        self.head = normal(CHANNELS, vocabulary)

    def start(self, batch: int, seed: int | None) -> tuple[Any, Tensor, Tensor]:
        # Of this call alone, where upstream seeds one that the model keeps: calls here may run at the same time.
        rng = None if seed is None else torch.Generator().manual_seed(seed)
        labels = torch.arange(batch) % CLASSES
        cond = self.class_emb[torch.cat([labels, torch.full_like(labels, CLASSES)])]
        return rng, cond, cond

    def network(self, state: Tensor, tokens: int) -> Tensor:
        return torch.tanh(state[:, None] + self.positions[:tokens] + self.positions[tokens])

    def get_logits(self, h: Tensor, cond: Tensor) -> Tensor:
        return (3 * h + 0.5 * cond[:, None]) @ self.head

    def advance(self, state: Tensor, embedded: Tensor) -> Tensor:
        """The next scale's input, from what the sampler chose, for both halves."""
        return state + embedded.mean(1).repeat(len(state) // len(embedded), 1)


class Var(NextScale):
    @torch.no_grad()
    def autoregressive_infer_cfg(
        self, B: int, label_B: Any, g_seed: int | None = None, cfg: float = 1.5, top_k: int = 0, top_p: float = 0.0,
        more_smooth: bool = False,
    ) -> Tensor:  # fmt: skip
        rng, cond, state = self.start(B, g_seed)
        chosen = []
        for si, pn in enumerate(self.patch_nums):
            ratio = si / self.num_stages_minus_1
            logits = self.get_logits(self.network(state, pn * pn), cond)
            t = cfg * ratio
            logits = (1 + t) * logits[:B] - t * logits[B:]
            idx = sample_with_top_k_top_p_(logits, rng=rng, top_k=top_k, top_p=top_p, num_samples=1)[:, :, 0]
            if more_smooth:
                tau = max(0.27 * (1 - ratio * 0.95), 0.005)
                embedded = gumbel_softmax_with_rng(
                    logits.mul(1 + ratio), tau=tau, hard=False, dim=-1, rng=rng
                )
                embedded = embedded @ self.codebook
            else:
                embedded = self.codebook[idx]
            chosen.append(embedded)
            state = self.advance(state, embedded)
        return torch.cat(chosen, 1)


class FlexVar(NextScale):
    """Half precision, scales given by the call, invalid ids, cfg's ramp over nine scales at most."""

    def get_logits(self, h: Tensor, cond: Tensor) -> Tensor:
        return super().get_logits(h, cond).half()

    @torch.no_grad()
    def autoregressive_infer_cfg(
        self, vqvae: Any, B: int, label_B: Any, infer_patch_nums: Sequence[int], g_seed: int | None = None,
        cfg: float = 1.5, top_k: int = 0, top_p: float = 0.0, invalid_ids: Any = None,
    ) -> Tensor:  # fmt: skip
        rng, cond, state = self.start(B, g_seed)
        chosen = []
        for si, pn in enumerate(infer_patch_nums):
            t = cfg * si / min(len(infer_patch_nums) - 1, 9)
            logits = self.get_logits(self.network(state, pn * pn), cond)
            logits[:, :, invalid_ids] = -100.0
            logits = (1 + t) * logits[:B] - t * logits[B:]
            idx = sample_with_top_k_top_p_(logits, rng=rng, top_k=top_k, top_p=top_p, num_samples=1)[:, :, 0]
            chosen.append(self.codebook[idx])
            state = self.advance(state, chosen[-1])
        return torch.cat(chosen, 1)


class ImageFolder(NextScale):
    """Product quantisation: the sampler is called on slices of the columns, twice per scale."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.vae_proxy = (nn.Module(),)
        self.vae_proxy[0].product_quant = 2

    @torch.no_grad()
    def autoregressive_infer_cfg(
        self, B: int, label_B: Any, g_seed: int | None = None, cfg: float = 1.5, top_k: int = 0, top_p: float = 0.0,
        joint_sample: bool = False,
    ) -> Tensor:  # fmt: skip
        rng, cond, state = self.start(B, g_seed)
        chosen = []
        for si, pn in enumerate(self.patch_nums):
            logits = self.get_logits(self.network(state, pn * pn), cond)
            t = cfg * si / self.num_stages_minus_1
            logits = (1 + t) * logits[:B] - t * logits[B:]
            options = {"rng": rng, "top_k": top_k, "top_p": top_p, "num_samples": 1}
            parts = logits.chunk(2, dim=-1)
            if joint_sample:
                embedded = torch.cat(
                    [sample_with_top_k_top_p_(x, **options, return_p=True) for x in parts], -1
                )
                embedded = embedded @ self.codebook
            else:
                embedded = sum(self.codebook[sample_with_top_k_top_p_(x, **options)[:, :, 0]] for x in parts)
            chosen.append(embedded)
            state = self.advance(state, embedded)
        return torch.cat(chosen, 1)


class Hart(NextScale):
    """Starts from the last of the text's positions; the last scale is outside the loop, with the t before it."""

    @torch.no_grad()
    def autoregressive_infer_cfg(
        self, B: int, label_B: Any, g_seed: int | None = None, cfg: float = 1.5, top_k: int = 0, top_p: float = 0.0,
        more_smooth: bool = False, num_maskgit_iters: int = 1,
    ) -> Tensor:  # fmt: skip
        rng, cond, state = self.start(B, g_seed)
        chosen = []

        def embed(logits: Tensor, si: int, ratio: float) -> None:
            nonlocal state
            kept = 6 if si < 2 else 3
            idx = sample_with_top_k_top_p_(logits, rng=rng, top_k=kept, top_p=top_p, num_samples=1)[:, :, 0]
            if more_smooth:
                tau = max(0.27 * (1 - ratio * 0.95), 0.005)
                embedded = gumbel_softmax_with_rng(
                    logits.mul(1 + ratio), tau=tau, hard=False, dim=-1, rng=rng
                )
                embedded = embedded @ self.codebook
            else:
                embedded = self.codebook[idx]
            chosen.append(embedded)
            state = self.advance(state, embedded)

        for si, pn in enumerate(self.patch_nums[:-1]):
            ratio = si / self.num_stages_minus_1
            logits = self.get_logits(self.network(state, pn * pn if si else TEXT), cond)
            t = cfg * ratio
            logits = (1 + t) * logits[:B] - t * logits[B:]
            if si == 0:
                logits = logits[:, [-1], :]
            embed(logits, si, ratio)
        logits = self.get_logits(self.network(state, self.patch_nums[-1] ** 2), cond)
        t = cfg * ratio
        logits = (1 + t) * logits[:B] - t * logits[B:]
        embed(logits, len(self.patch_nums) - 1, ratio)
        return torch.cat(chosen, 1)


class Infinity(NextScale):
    """Bits: two classes for each channel, sampled alone; temperature and cfg by scale, and the grids by call."""

    @torch.no_grad()
    def autoregressive_infer_cfg(
        self, vae: Any = None, scale_schedule: Any = None, label_B_or_BLT: Any = None, B: int = 1,
        g_seed: int | None = None, cfg_list: Sequence[float] = (), tau_list: Sequence[float] = (), top_k: int = 0,
        top_p: float = 0.0, cfg_insertion_layer: Sequence[int] = (-5,), trunk_scale: int = 1000,
        left_out: Sequence[int] = (),
    ) -> Tensor:  # fmt: skip
        rng, cond, state = self.start(B, g_seed)
        chosen = []
        for si, pn in enumerate(scale_schedule):
            if si >= trunk_scale:
                break
            if pn[2] in left_out:  # As FastVAR does.
                continue
            cfg = cfg_list[si]
            hidden = self.network(state, math.prod(pn))
            if cfg != 1 and 0 in cfg_insertion_layer:
                logits = self.get_logits(hidden, cond).mul(1 / tau_list[si])
                logits = cfg * logits[:B] + (1 - cfg) * logits[B:]
            else:
                logits = self.get_logits(hidden[:B], cond[:B]).mul(1 / tau_list[si])
            seq = logits.shape[1]
            logits = logits.reshape(B, -1, 2)
            bits = sample_with_top_k_top_p_also_inplace_modifying_logits_(
                logits, rng=rng, top_k=min(top_k, 2), top_p=top_p, num_samples=1
            )[:, :, 0]
            bits = bits.reshape(B, seq, -1)
            chosen.append(bits)
            state = self.advance(state, 2.0 * bits - 1.0)
        return torch.cat(chosen, 1)


class SwittiPipeline:
    """cfg stops half-way, and with it the unconditional rows; `more_smooth` never calls the top-k sampler."""

    def __init__(self, switti: NextScale, dtype: torch.dtype = torch.float32) -> None:
        self.switti = switti.to(dtype)

    @torch.inference_mode()
    def __call__(
        self, prompt: list[str], null_prompt: str = "", seed: int | None = None, cfg: float = 6.0, top_k: int = 5,
        top_p: float = 0.95, more_smooth: bool = False, smooth_start_si: int = 0, turn_off_cfg_start_si: int = 10,
        turn_on_cfg_start_si: int = 0, last_scale_temp: float | None = None,
    ) -> Tensor:  # fmt: skip
        switti, B = self.switti, len(prompt)
        rng, cond, state = switti.start(B, seed)
        chosen = []
        for si, pn in enumerate(switti.patch_nums):
            ratio = si / switti.num_stages_minus_1
            smooth = more_smooth
            if si >= turn_off_cfg_start_si:
                smooth, cond, state = False, cond[:B], state[:B]
            logits = switti.get_logits(switti.network(state, pn * pn), cond)
            if si < turn_on_cfg_start_si:
                logits = logits[:B]
            elif si < turn_off_cfg_start_si:
                t = cfg * ratio
                logits = (1 + t) * logits[:B] - t * logits[B:]
            elif last_scale_temp is not None:
                logits = logits / last_scale_temp
            if smooth and si >= smooth_start_si:
                tau = max(0.27 * (1 - ratio * 0.95), 0.005)
                embedded = gumbel_softmax_with_rng(
                    logits.mul(1 + ratio), tau=tau, hard=False, dim=-1, rng=rng
                )
                embedded = embedded @ switti.codebook
            else:
                idx = sample_with_top_k_top_p_(logits, rng=rng, top_k=top_k, top_p=top_p, num_samples=1)[
                    :, :, 0
                ]
                embedded = switti.codebook[idx]
            chosen.append(embedded)
            state = switti.advance(state, embedded)
        return torch.cat(chosen, 1)


class Hmar(NextScale):
    """After each prediction its least likely tokens are masked and predicted again, by another head."""

    def get_ns_logits(self, h: Tensor, cond: Tensor) -> Tensor:
        return self.get_logits(h, cond)

    def get_mask_logits(self, h: Tensor, cond: Tensor) -> Tensor:
        return self.get_logits(h.roll(1, -1), cond)

    @torch.no_grad()
    def generate(
        self, B: int, label_B: Any, g_seed: int | None = None, cfg: float = 1.5, top_k: int = 6, top_p: float = 0.999,
        mask_schedule: Any = None,
    ) -> Tensor:  # fmt: skip
        rng, cond, state = self.start(B, g_seed)
        chosen, rows = [], torch.arange(B)[:, None]
        for si, pn in enumerate(self.patch_nums):
            logits = self.get_ns_logits(self.network(state, pn * pn), cond)
            t = cfg * si / self.num_stages_minus_1
            logits = (1 + t) * logits[:B] - t * logits[B:]
            idx = sample_with_top_k_top_p_(logits, rng=rng, top_k=top_k, top_p=top_p, num_samples=1)[:, :, 0]
            for masked in mask_schedule[si]:
                # Read again, masked as the sampler left them.
                likely = logits.softmax(-1).gather(2, idx[..., None])[..., 0]
                again = likely.argsort(-1)[:, :masked]
                logits = self.get_mask_logits(
                    self.network(self.advance(state, self.codebook[idx]), pn * pn), cond
                )
                t = 1.5e-6
                logits = (1 + t) * logits[:B] - t * logits[B:]
                new = sample_with_top_k_top_p_(logits, rng=rng, top_k=top_k, top_p=top_p, num_samples=1)[
                    :, :, 0
                ]
                idx[rows, again] = new[rows, again]
            chosen.append(self.codebook[idx])
            state = self.advance(state, chosen[-1])
        return torch.cat(chosen, 1)


class Denoiser(nn.Module):
    """The network of a VQ-Diffusion: (B, L) tokens, one condition and one t a row, to channel-major logits."""

    def __init__(self, side: int, vocabulary: int, generator: torch.Generator) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(vocabulary + 1, CHANNELS, generator=generator))
        self.positions = nn.Parameter(torch.randn(side * side, CHANNELS, generator=generator))
        self.head = nn.Parameter(torch.randn(CHANNELS, vocabulary, generator=generator))

    def forward(self, tokens: Tensor, condition: Tensor | None, t: Tensor) -> Tensor:
        hidden = self.embedding[tokens] + self.positions
        if condition is not None:
            hidden = hidden + condition[:, None, None]
        hidden = torch.sin(hidden * (1 + 0.3 * t[:, None, None]))
        return (4 * hidden @ self.head).transpose(1, 2)


class Diffusion(nn.Module):
    def __init__(
        self, num_timesteps: int = 6, side: int = 3, vocabulary: int = VOCABULARY, seed: int = 0
    ) -> None:
        super().__init__()
        self.num_timesteps, self.tokens, self.vocabulary = num_timesteps, side * side, vocabulary
        self.transformer = Denoiser(side, vocabulary, torch.Generator().manual_seed(seed))
        self.repeats = 1

    def predict_start(self, tokens: Tensor, condition: Tensor | None, t: Tensor) -> Tensor:
        return self.transformer(tokens, condition, t).double().log_softmax(1).float().clamp(-70, 0)

    def cf_predict_start(self, tokens: Tensor, condition: Tensor | None, t: Tensor) -> Tensor:
        return self.predict_start(tokens, condition, t)

    def _draw(self, tokens: Tensor, condition: Tensor | None, t: Tensor, rng: torch.Generator) -> Tensor:
        probabilities = self.cf_predict_start(tokens, condition, t).exp().transpose(1, 2)
        return torch.multinomial(probabilities.flatten(0, 1), 1, generator=rng).view(tokens.shape)

    def _denoise(self, condition: Tensor | None, batch: int, indices: Sequence[int], repeats: int) -> Tensor:
        # Upstream draws from the global generator, which calls at the same time would share.
        rng = torch.Generator().manual_seed(torch.initial_seed())
        tokens = torch.full((batch, self.tokens), self.vocabulary)
        for index in indices:
            t = torch.full((batch,), index)
            for _ in range(repeats):
                tokens = self._draw(tokens, condition, t, rng)
        return tokens

    @torch.no_grad()
    def sample(self, condition: Tensor | None, batch: int, filter_ratio: float = 0.5) -> Tensor:
        start = int(self.num_timesteps * filter_ratio) or self.num_timesteps
        return self._denoise(condition, batch, range(start - 1, -1, -1), self.repeats)

    @torch.no_grad()
    def sample_fast(
        self, condition: Tensor | None, batch: int, filter_ratio: float = 0.5, skip_step: int = 1
    ) -> Tensor:
        indices = list(range(self.num_timesteps - 1, -1, -1 - skip_step))
        return self._denoise(condition, batch, indices if indices[-1] == 0 else [*indices, 0], 1)


class Dalle:
    """Installs its cfg over the transformer's method on the first call, and never takes it out again."""

    def __init__(self, guidance_scale: float = 3.0, **options: Any) -> None:
        self.transformer = Diffusion(**options)
        self.guidance_scale = guidance_scale
        self.truncation_forward = False

    def generate_content(
        self, batch: Tensor | None, count: int, filter_ratio: float = 0.0, skip_step: int = 0
    ) -> Tensor:
        def cf_predict_start(tokens: Tensor, condition: Tensor, t: Tensor) -> Tensor:
            cond = self.transformer.predict_start(tokens, condition, t)
            if abs(self.guidance_scale - 1) < 1e-3:
                return cond
            unconditional = torch.full((len(tokens),), 9.0)
            uncond = self.transformer.predict_start(tokens, unconditional.type_as(condition), t)
            new = uncond + self.guidance_scale * (cond - uncond)
            return (new - new.logsumexp(1, keepdim=True)).clamp(-70, 0)

        if not self.truncation_forward and batch is not None:
            self.transformer.cf_predict_start = cf_predict_start
            self.truncation_forward = True
        if skip_step:
            return self.transformer.sample_fast(batch, count, filter_ratio, skip_step=skip_step)
        return self.transformer.sample(batch, count, filter_ratio=filter_ratio)
