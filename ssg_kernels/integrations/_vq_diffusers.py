"""The part of `vq_diffusion` for diffusers' `VQDiffusionPipeline` (58eb52c, release 0.42.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ssg_kernels.guidance import SSG
from ssg_kernels.integrations._call import Denoiser, Hooks
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
        self.both: SSG | None = None

    def guide(self, forward: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        logits = forward(*args, **kwargs)
        # Both branches are one batch.
        self.both = self.both or self.ssg(self.arguments["num_inference_steps"], logits)
        return self.both(logits)
