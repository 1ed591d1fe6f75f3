"""Switti (yandex-research/switti at 3b286b5)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ssg_kernels.guidance import SSG
from ssg_kernels.integrations._call import Hooks
from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations._next_scale import NextScale
from ssg_kernels.integrations._target import Function

__all__ = ["attach"]


class _Call(NextScale):
    """Guide a Switti (`SwittiPipeline`): inside the context `pipe(prompt, ...)` is guided, also with `more_smooth`.

    `cfg_order="before"` guides both halves, and only the conditional one from where cfg is off. It is the better choice
    while `turn_off_cfg_start_si` is within the scales: merged logits are far larger than those that follow.
    """

    upstream = "yandex-research/switti at 3b286b5"
    methods = ("__call__",)
    maker = "switti.get_logits"
    needs = ("switti.patch_nums", "switti.num_stages_minus_1")

    @classmethod
    def hooks(cls, cfg_order: str) -> Hooks:
        hooks = dict(super().hooks(cfg_order))
        if cfg_order == "after":
            hooks[Function("gumbel_softmax_with_rng")] = cls.guide_smooth
        return hooks

    def make(self, maker: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        self.again: SSG | None = None
        self.logits = super().make(maker, *args, **kwargs)
        return self.logits

    def guide_smooth(self, gumbel: Callable[..., Any], scaled: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.due:
            self.again, self.guided = copy.copy(self.due[0]), self.guided + 1
        if self.again is None:
            return gumbel(scaled, *args, **kwargs)
        # Every candidate of a scale begins with the same state.
        ssg = self.due.pop() if self.due else copy.copy(self.again)
        # `more_smooth` hands over a multiple of the merged logits: merge them as the pipeline did, to the bit.
        ratio = ssg.step / self.model.switti.num_stages_minus_1
        cond, uncond = self.logits.split(scaled.shape[0])
        if ssg.step >= self.arguments["turn_on_cfg_start_si"]:
            t = self.arguments["cfg"] * ratio
            cond = (1 + t) * cond - t * uncond
        return gumbel(ssg(cond).mul(1 + ratio), *args, **kwargs)


attach = Integration(_Call)
