"""The part of `vq_diffusion` for diffusers' `VQDiffusionPipeline` (58eb52c, release 0.42.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ssg_kernels.integrations._call import Hooks
from ssg_kernels.integrations._denoiser import Denoiser
from ssg_kernels.integrations._target import Method

UPSTREAM = "microsoft/VQ-Diffusion at d1d3948 and huggingface/diffusers at 58eb52c"


class VqDiffusers(Denoiser):
    """diffusers' `VQDiffusionPipeline`: inside the context `pipeline(...)` is guided."""

    upstream = UPSTREAM
    methods = ("__call__",)

    @classmethod
    def hooks(cls, cfg_order: str) -> Hooks:
        return {Method("transformer.out.forward"): cls.guide}

    def start(self) -> None:
        self.begin(self.arguments["num_inference_steps"])

    def guide(self, forward: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        # Both branches are one batch, and each call is a step.
        return self.guide_branch("both", object(), forward(*args, **kwargs))
