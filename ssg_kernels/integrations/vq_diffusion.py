"""VQ-Diffusion (microsoft/VQ-Diffusion at d1d3948), and diffusers' `VQDiffusionPipeline` (58eb52c, release 0.42.1)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ssg_kernels.guidance import SSG
from ssg_kernels.integrations._call import Denoiser, Hooks, arguments_of
from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations._target import Method
from ssg_kernels.integrations._vq_diffusers import UPSTREAM, VqDiffusers

__all__ = ["attach"]


class _Microsoft(Denoiser):
    """Guide a VQ-Diffusion: inside the context `model.generate_content(...)` is guided.

    The model is Microsoft's `DALLE`, `C_DALLE` or `UC_DALLE`. Every step has the same grid, so every prior is the previous
    step's logits themselves. k counts the denoising steps of the call. Each branch is guided on the transformer's output,
    before the log-softmax. The scale of cfg is constant, so both values of `cfg_order` mean the same.
    """

    upstream = UPSTREAM
    methods = ("generate_content",)
    needs = ("transformer.num_timesteps",)

    @classmethod
    def serves(cls, model: Any) -> bool:
        return not hasattr(model, "scheduler")

    @classmethod
    def hooks(cls, cfg_order: str) -> Hooks:
        return {
            Method("transformer.transformer.forward"): cls.guide,
            Method("transformer.sample"): cls.begin,
            Method("transformer.sample_fast"): cls.begin,
        }

    def begin(self, sample: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        arguments, timesteps = arguments_of(sample, args, kwargs), self.model.transformer.num_timesteps
        start = int(timesteps * arguments["filter_ratio"]) or timesteps
        indices = range(start - 1, -1, -1 - arguments.get("skip_step", 0))
        self.steps = len(indices) + (indices[-1] != 0)
        self.t: Any = None
        self.first_condition: Any = None
        # By branch (is it the conditional one?): the guidance before this step, and after it.
        self.before: dict[bool, SSG] = {}
        self.after: dict[bool, SSG] = {}
        return sample(*args, **kwargs)

    def guide(self, forward: Callable[..., Tensor], tokens: Any, condition: Any, t: Any) -> Tensor:
        logits = forward(tokens, condition, t).transpose(1, 2)
        # The sampler makes one `t` for each step, which it may try again (`prior_rule`). It asks for the conditional
        # branch first, with one condition for the whole call.
        if self.t is None:
            self.first_condition = condition
        if t is not self.t:
            self.t = t
            self.before.update(self.after)
        is_conditional = condition is self.first_condition
        if is_conditional not in self.before:
            self.before[is_conditional] = self.ssg(self.steps, logits)
        ssg = self.after[is_conditional] = copy.copy(self.before[is_conditional])
        return ssg(logits).transpose(1, 2)


attach = Integration(_Microsoft, VqDiffusers)
