"""VQ-Diffusion (microsoft/VQ-Diffusion at d1d3948), and diffusers' `VQDiffusionPipeline` (58eb52c, release 0.42.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ssg_kernels.integrations._call import Hooks, arguments_of
from ssg_kernels.integrations._denoiser import Denoiser
from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations._target import Method
from ssg_kernels.integrations._vq_diffusers import UPSTREAM, VqDiffusers

__all__ = ["attach"]


class _Microsoft(Denoiser):
    """Guide a VQ-Diffusion: inside the context `model.generate_content(...)` is guided.

    The model is Microsoft's `DALLE`, `C_DALLE` or `UC_DALLE`. Every step has the same grid, so every prior is the
    previous step's logits themselves. k counts the denoising steps of the call. Each branch is guided on the
    transformer's output, before the log-softmax. The scale of cfg is constant, so both values of `cfg_order` mean the
    same.
    """

    upstream = UPSTREAM
    methods = ("generate_content",)
    needs = ("transformer.num_timesteps",)

    @classmethod
    def serves(cls, model: Any) -> bool:
        return not hasattr(model, "scheduler")

    @classmethod
    def hooks(cls, cfg_order: str) -> Hooks:
        hooks: Hooks = {Method("transformer.transformer.forward"): cls.guide}
        return {
            **hooks,
            Method("transformer.sample"): cls.sample,
            Method("transformer.sample_fast"): cls.sample,
        }

    def sample(self, sample: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        arguments, timesteps = arguments_of(sample, args, kwargs), self.model.transformer.num_timesteps
        start = int(timesteps * arguments["filter_ratio"]) or timesteps
        indices = range(start - 1, -1, -1 - arguments.get("skip_step", 0))
        self.begin(len(indices) + (indices[-1] != 0))
        self.conditions: list[Any] = []
        return sample(*args, **kwargs)

    def guide(self, forward: Callable[..., Tensor], tokens: Any, condition: Any, t: Any) -> Tensor:
        logits = forward(tokens, condition, t).transpose(1, 2)
        # The sampler asks for the conditional branch first, with one condition for the whole call.
        self.conditions = self.conditions or [condition]
        return self.guide_branch(condition is self.conditions[0], t, logits).transpose(1, 2)


attach = Integration(_Microsoft, VqDiffusers)
