"""GRN (MGenAI/GRN at 2a3353d): images and videos."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ssg_kernels.integrations._call import Hooks
from ssg_kernels.integrations._denoiser import Denoiser
from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations._target import Method

__all__ = ["attach"]


class _Call(Denoiser):
    """Guide a GRN: inside the context `model.autoregressive_infer(...)` is guided, for images and videos.

    Every step refines one grid, so every prior is the previous step's logits themselves. k counts the steps, and K is
    `max_infer_steps` of the call's `args`. Each branch of cfg is guided by its own previous step. The scale of cfg and
    the temperature are constant from where cfg starts, so both values of `cfg_order` mean the same.
    """

    upstream = "MGenAI/GRN at 2a3353d"
    methods = ("autoregressive_infer",)
    takes = ("scale_schedule", "cfg_list", "noise_list", "class_token_id")

    @classmethod
    def hooks(cls, cfg_order: str) -> Hooks:
        return {Method("get_logits_during_infer"): cls.guide}

    def start(self) -> None:
        self.begin(self.arguments["args"].max_infer_steps)

    def guide(self, maker: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        # Both branches are one row, and each call is a step.
        return self.guide_branch("both", object(), maker(*args, **kwargs))


attach = Integration(_Call)
