"""CoDe (czg1225/CoDe at bfb204d): a drafter makes the first scales of VAR, and a refiner the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations._next_scale import NextScale

__all__ = ["attach"]


class _Call(NextScale):
    """Guide a drafter or a refiner of CoDe, each in a context of its own: `model.autoregressive_infer_cfg_draft(...)`,
    `model.autoregressive_infer_cfg_refine(...)` and VAR's own `model.autoregressive_infer_cfg(...)` are guided in it.

    The refiner predicts all scales up to `entry_num` in one pass. Its prior there is its own prediction of the scale
    before, with cfg at the t of that scale.
    """

    upstream = "czg1225/CoDe at bfb204d"
    methods = tuple(f"autoregressive_infer_cfg{part}" for part in ("_draft", "_refine", ""))

    def make(self, maker: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        logits = super().make(maker, *args, **kwargs)
        if (prev := self.prev_of(logits)) is not None:
            cond, uncond = prev.chunk(2)
            t = self.arguments["cfg"] * (self.ssgs[0].step / self.model.num_stages_minus_1)
            self.ssgs[0]((1 + t) * cond - t * uncond)
        return logits

    def halves(self, logits: Tensor) -> Tensor:
        if (prev := self.prev_of(logits)) is None:
            return logits
        self.ssgs[0](prev)
        return logits[:, -self.ssgs[0].generation.tokens :]

    def prev_of(self, logits: Tensor) -> Tensor | None:
        """The scale before the entry, in the refiner's first pass. It is the next one that the generation takes."""
        generation = self.ssgs[0].generation
        entry = self.arguments.get("entry_num", 0)
        if self.made > 1 or not entry:
            return None
        while generation.step < entry - 1:
            generation.skip()
        last = generation.grids[entry].tokens
        return logits[:, -last - generation.tokens : -last]

    def guide_merged(self, sampler: Callable[..., Any], logits: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.due and logits.shape[1] != self.ssgs[0].generation.tokens:
            # The tokens of the scales before the entry are drawn again and thrown away.
            return self.sample(sampler, logits, *args, **kwargs)
        return super().guide_merged(sampler, logits, *args, **kwargs)


attach = Integration(_Call)
