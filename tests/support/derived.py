"""Stand-ins for what others derive from VAR: samplers of their own, candidates, scales that are drawn in parts."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from support import standins
from support.standins import sample_with_top_k_top_p_


class Derived(standins.Var):
    """VAR's loop, with the choice of the tokens left to `choose`."""

    def autoregressive_infer_cfg(
        self, B: int, label_B: Any, g_seed: int | None = None, cfg: float = 1.5
    ) -> Tensor:
        return self.loop(B, g_seed, cfg)

    @torch.no_grad()
    def loop(self, B: int, g_seed: int | None, cfg: float) -> Tensor:
        rng, cond, state = self.start(B, g_seed)
        chosen = []
        for si, pn in enumerate(self.patch_nums):
            logits = self.get_logits(self.network(state, pn * pn), cond)
            t = cfg * (si / self.num_stages_minus_1)
            logits = (1 + t) * logits[:B] - t * logits[B:]
            chosen.append(self.codebook[self.choose(logits, rng)])
            state = self.advance(state, chosen[-1])
        return torch.cat(chosen, 1)

    def choose(self, logits: Tensor, rng: Any) -> Tensor:
        return sample_with_top_k_top_p_(logits, rng=rng, top_k=5)[:, :, 0]


class SkipVar(Derived):
    """As SkipVAR and LSRS: the loop has another name, and what VAR's name does is VAR's."""

    def autoregressive_infer_cfg_SkipVAR(
        self, B: int, label_B: Any, g_seed: int | None = None, cfg: float = 1.5
    ) -> Tensor:
        return self.loop(B, g_seed, cfg)

    autoregressive_infer_cfg = standins.Var.autoregressive_infer_cfg


class Inline(Derived):
    """It samples without the function."""

    def choose(self, logits: Tensor, rng: Any) -> Tensor:
        return torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=rng).view(logits.shape[:2])


class Bypassing(Derived):
    """It makes the logits without the method."""

    def __init__(self) -> None:
        super().__init__()
        self.drafter = standins.Var(seed=1)

    def autoregressive_infer_cfg(
        self, B: int, label_B: Any, g_seed: int | None = None, cfg: float = 1.5
    ) -> Tensor:
        return self.drafter.autoregressive_infer_cfg(B, label_B, g_seed, cfg, top_k=5)


class AtOnce(Derived):
    """As CoDe's refiner: it makes the logits of all scales at once, and samples slices of them."""

    @torch.no_grad()
    def loop(self, B: int, g_seed: int | None, cfg: float) -> Tensor:
        rng, cond, state = self.start(B, g_seed)
        counts = [pn * pn for pn in self.patch_nums]
        logits = self.get_logits(self.network(state, sum(counts)), cond)[:B]
        return torch.cat([self.choose(scale, rng) for scale in logits.split(counts, 1)], 1)


class OnlyTheFirst(Derived):
    """Only the first scale comes through the hooks."""

    def choose(self, logits: Tensor, rng: Any) -> Tensor:
        if logits.shape[1] == 1:
            return super().choose(logits, rng)
        return logits.argmax(-1)


class Candidates(Derived):
    """As VAR-Scaling: twenty draws of a scale from the same tensor, masked in place; the last one is taken."""

    def choose(self, logits: Tensor, rng: Any) -> Tensor:
        return [sample_with_top_k_top_p_(logits, rng=rng, top_k=5) for _ in range(20)][-1][:, :, 0]


class CopiedCandidates(Derived):
    """The same from a copy for each draw; every other copy is masked already."""

    def choose(self, logits: Tensor, rng: Any) -> Tensor:
        drawn = []
        for k in range(20):
            copied = logits.clone()
            if k % 2:
                copied[..., 0] = -math.inf
            drawn.append(sample_with_top_k_top_p_(copied, rng=rng, top_k=5))
        return drawn[-1][:, :, 0]


class LateCopies(Derived):
    """Copies that are made after the first draw, of logits that are guided and masked."""

    def choose(self, logits: Tensor, rng: Any) -> Tensor:
        sample_with_top_k_top_p_(logits, rng=rng, top_k=5)
        return sample_with_top_k_top_p_(logits.clone(), rng=rng, top_k=5)[:, :, 0]


class InParts(Derived):
    """A scale in parts along one dimension: the batch, or the positions."""

    def __init__(self, dim: int, copied: bool = False) -> None:
        super().__init__()
        self.dim, self.copied = dim, copied

    def choose(self, logits: Tensor, rng: Any) -> Tensor:
        parts = [part.clone() if self.copied else part for part in logits.chunk(2, self.dim)]
        return torch.cat([sample_with_top_k_top_p_(x, rng=rng, top_k=5)[:, :, 0] for x in parts], self.dim)
