"""Stand-ins for models that sample as VAR does, on other grids, by other names, in other passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from support import standins
from support.standins import gumbel_softmax_with_rng, sample_with_top_k_top_p_


class Kin(standins.NextScale):
    """VAR's loop over the grids that `tokens_of` counts, and over some of the scales."""

    def tokens_of(self, n: int) -> int:
        return n * n

    def choose(self, logits: Tensor, rng: Any, top_k: int) -> Tensor:
        return sample_with_top_k_top_p_(logits, rng=rng, top_k=top_k, num_samples=1)[:, :, 0]

    @torch.no_grad()
    def loop(
        self, B: int, g_seed: int | None, cfg: float, top_k: int, more_smooth: bool = False, scales: slice = slice(None)
    ) -> Tensor:  # fmt: skip
        rng, cond, state = self.start(B, g_seed)
        chosen = []
        for si, pn in list(enumerate(self.patch_nums))[scales]:
            ratio = si / self.num_stages_minus_1
            logits = self.get_logits(self.network(state, self.tokens_of(pn)), cond)
            t = cfg * ratio
            logits = (1 + t) * logits[:B] - t * logits[B:]
            embedded = self.codebook[self.choose(logits, rng, top_k)]
            if more_smooth:
                tau = max(0.27 * (1 - ratio * 0.95), 0.005)
                smooth = gumbel_softmax_with_rng(logits.mul(1 + ratio), tau=tau, hard=False, dim=-1, rng=rng)
                embedded = smooth @ self.codebook
            chosen.append(embedded)
            state = self.advance(state, embedded)
        return torch.cat(chosen, 1)

    def autoregressive_infer_cfg(
        self, B: int, label_B: Any, g_seed: int | None = None, cfg: float = 1.5, top_k: int = 5,
        more_smooth: bool = False,
    ) -> Tensor:  # fmt: skip
        return self.loop(B, g_seed, cfg, top_k, more_smooth)


class Mvar(standins.NextScale):
    """cfg of 1 means that there is no unconditional half."""

    @torch.no_grad()
    def autoregressive_infer(
        self, *, B: int, label_B: Any, g_seed: int | None = None, cfg: float = 1.5, top_k: int = 5
    ) -> Tensor:
        rng, cond, state = self.start(B, g_seed)
        if cfg == 1.0:
            cond, state = cond[:B], state[:B]
        chosen = []
        for si, pn in enumerate(self.patch_nums):
            logits = self.get_logits(self.network(state, pn * pn), cond)
            if cfg != 1.0:
                t = cfg * (si / self.num_stages_minus_1)
                logits = (1 + t) * logits[:B] - t * logits[B:]
            idx = sample_with_top_k_top_p_(logits, rng=rng, top_k=top_k, num_samples=1)[:, :, 0]
            chosen.append(self.codebook[idx])
            state = self.advance(state, chosen[-1])
        return torch.cat(chosen, 1)


class Aar(Kin):
    """Rows."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("uncond_embedding", torch.zeros(1))

    def tokens_of(self, n: int) -> int:
        return n


class Sar3d(Kin):
    """Three planes."""

    def tokens_of(self, n: int) -> int:
        return 3 * n * n

    def autoregressive_infer_cfg_3D_VAR_image_l2norm(
        self, B: int, dino_image_embeddings: Any, pooler_output: Any = None, cfg: float = 1.5, top_k: int = 5,
        g_seed: int | None = None, more_smooth: bool = False,
    ) -> Tensor:  # fmt: skip
        return self.loop(B, g_seed, cfg, top_k, more_smooth)


class Sar3dText(Sar3d):
    autoregressive_infer_cfg_3D_VAR_text_l2norm = Sar3d.autoregressive_infer_cfg_3D_VAR_image_l2norm
    autoregressive_infer_cfg_3D_VAR_image_l2norm: Any = property()


class Lsrs(Kin):
    """Several candidates of a scale in one draw, of which a score picks one."""

    def choose(self, logits: Tensor, rng: Any, top_k: int) -> Tensor:
        drawn = sample_with_top_k_top_p_(logits, rng=rng, top_k=top_k, num_samples=4)
        best = self.codebook[drawn].sum((1, 3)).argmax(-1)
        return drawn.take_along_dim(best[:, None, None], -1)[:, :, 0]

    autoregressive_infer_cfg_lsrs = autoregressive_infer_cfg_idx = Kin.autoregressive_infer_cfg


class Code(Kin):
    """A drafter that stops early, and a refiner that predicts all scales up to its entry in one pass."""

    def autoregressive_infer_cfg_draft(
        self, B: int, label_B: Any, g_seed: int | None = None, cfg: float = 1.5, top_k: Sequence[int] = (5,) * 9,
        more_smooth: bool = False, exit_num: int = 3,
    ) -> Tensor:  # fmt: skip
        return self.loop(B, g_seed, cfg, top_k[0], more_smooth, slice(exit_num))

    @torch.no_grad()
    def autoregressive_infer_cfg_refine(
        self, B: int, label_B: Any, g_seed: int | None = None, cfg: float = 1.5, top_k: Sequence[int] = (5,) * 9,
        draft: Any = None, entry_num: int = 2,
    ) -> Tensor:  # fmt: skip
        rng, cond, state = self.start(B, g_seed)
        ends = torch.tensor(self.patch_nums).square().cumsum(0).tolist()
        starts, chosen = [0, *ends], []
        for si, pn in enumerate(self.patch_nums):
            if si < entry_num:
                continue
            t = cfg * (si / self.num_stages_minus_1)
            tokens = ends[si] if si == entry_num else pn * pn
            logits = self.get_logits(self.network(state, tokens), cond)
            if si == entry_num:
                here = slice(starts[si], ends[si])
                logits[:B, here] = (1 + t) * logits[:B, here] - t * logits[B:, here]
                for a in range(si + 1):
                    idx = self.choose(logits[:B, starts[a] : ends[a]], rng, top_k[a])
            else:
                logits = (1 + t) * logits[:B] - t * logits[B:]
                idx = self.choose(logits, rng, top_k[si])
            chosen.append(self.codebook[idx])
            state = self.advance(state, chosen[-1])
        return torch.cat(chosen, 1)


sample_with_top_k_top_p_also_inplace_modifying_logits_ = sample_with_top_k_top_p_


class Skipvar(standins.Infinity):
    """It leaves out the last scales, and before them the unconditional half."""

    @torch.no_grad()
    def autoregressive_infer_cfg_SkipVAR(
        self, vae: Any = None, scale_schedule: Any = None, label_B_or_BLT: Any = None, B: int = 1,
        g_seed: int | None = None, cfg_list: Sequence[float] = (), tau_list: Sequence[float] = (), top_k: int = 0,
        top_p: float = 1.0, cfg_insertion_layer: Sequence[int] = (0,), stop: int = 4, uncond: int = 3,
    ) -> Tensor:  # fmt: skip
        rng, cond, state = self.start(B, g_seed)
        chosen = []
        for si, (_, h, w) in enumerate(scale_schedule[:stop]):
            cfg, only_cond = cfg_list[si], si >= uncond
            rows = B if only_cond else 2 * B
            logits = self.get_logits(self.network(state[:rows], h * w), cond[:rows]).mul(1 / tau_list[si])
            logits = cfg * logits[:B] + (1 - cfg) * (logits if only_cond else logits[B:])
            seq = logits.shape[1]
            bits = sample_with_top_k_top_p_also_inplace_modifying_logits_(
                logits.reshape(B, -1, 2), rng=rng, top_k=top_k, top_p=top_p, num_samples=1
            )[:, :, 0]
            chosen.append(bits.reshape(B, seq, -1))
            state = self.advance(state, 2.0 * chosen[-1] - 1.0)
        return torch.cat(chosen, 1)


MODELS: dict[str, Callable[[], Any]] = {
    "aar": Aar,
    "code": Code,
    "lsrs": Lsrs,
    "mvar": Mvar,
    "sar3d": Sar3d,
    "skipvar": Skipvar,
}
