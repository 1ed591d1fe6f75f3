"""VQ-Diffusion on ImageNet 256: Table 7 of the paper.

The protocol is that of VQ-Diffusion's readme.md (microsoft/VQ-Diffusion at d1d3948) for class labels. Known traps:

- The readme has two: truncation 0.86 without cfg for imagenet_pretrained.pth, and truncation 0.94 with scale 1.5 for
  imagenet_learnable.pth. The paper's baseline, FID 9.39, is not explained; this recipe has the second.
- The paper evaluates 10,000 images of 1000 classes.
- `generate_content` keeps the cfg of its first call, with that call's batch size (conditional_dalle.py:171). The recipe
  makes it set up cfg anew in each call.
- Everything is drawn from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssg_kernels.evaluate import upstream
from ssg_kernels.evaluate.recipe import AS_IN_THE_PAPER, PaperRow, Source
from ssg_kernels.evaluate.setting import Setting
from ssg_kernels.integrations import vq_diffusion

CLASSES = 1000


class VqDiffusion(upstream.UpstreamRecipe):
    name = "vq_diffusion"
    summary = "VQ-Diffusion on ImageNet 256x256"
    upstream = "microsoft/VQ-Diffusion at d1d3948, with the tokenizers under OUTPUT/pretrained_model"
    package = "inference_VQ_Diffusion.py"
    gpu = True
    weights = ("the model, imagenet_learnable.pth",)
    # readme.md: inference_generate_sample_with_class(407, truncation_rate=0.94, ..., guidance_scale=1.5).
    options: ClassVar[Mapping[str, Any]] = {"cfg": 1.5, "truncation": 0.94}
    paper = (
        PaperRow("Table 7", "VQ-Diffusion", {"beta": 0.0}, {"fid": 9.39, "is": 158.3}),
        PaperRow("Table 7", "VQ-Diffusion + SSG", AS_IN_THE_PAPER, {"fid": 9.18, "is": 165.8}),
    )
    images = 10_000
    chunk = 8  # readme.md: batch_size=8
    attach = vq_diffusion.attach

    def build(self, source: Source) -> None:
        assert source.upstream is not None
        weights = source.weights[0].resolve()
        # The configuration names files relative to the checkout.
        with upstream.working_in(source.upstream):
            inference = upstream.module("inference_VQ_Diffusion").VQ_Diffusion
            self.dalle = inference(config="configs/imagenet.yaml", path=str(weights), imagenet_cf=True).model

    def guided(self) -> Any:
        return self.dalle

    def logits_of(self) -> tuple[Any, str]:
        return self.dalle.transformer.transformer, "forward"

    def sample(self, setting: Setting, seed: int, indices: Sequence[int]) -> Tensor:
        torch.manual_seed(seed)
        self.dalle.guidance_scale = setting["cfg"]
        self.dalle.truncation_forward = False
        made = self.dalle.generate_content(
            batch={"label": [i % CLASSES for i in indices], "image": None},
            filter_ratio=0,
            content_ratio=1,
            return_att_weight=False,
            sample_type=f"top{setting['truncation']}r",
        )
        # inference_VQ_Diffusion.py: content in 0 to 255, the fraction cut off.
        return made["content"].float().clamp(0, 255).to(torch.uint8)

    def prompt(self, index: int) -> str:
        return f"class {index % CLASSES}"
