"""Switti on a file of prompts, such as those of MJHQ-30K. The paper does not have it.

The protocol is that of Switti's calculate_metrics.py (yandex-research/switti at 3b286b5). Known traps:

- The README's example has more_smooth=True, turn_off_cfg_start_si=11 and last_scale_temp=0.1, for looks.
  calculate_metrics.py has more_smooth=False and the pipeline's defaults.
- cfg is off from scale 10 on, so that guidance after cfg meets a jump there: --cfg-order before is the better choice
  (docs/integrations/switti.md).
- calculate_metrics.py passes one seed for all batches. Here every chunk has a seed of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssg_kernels.evaluate import upstream
from ssg_kernels.evaluate.recipe import Source
from ssg_kernels.evaluate.setting import Setting
from ssg_kernels.integrations import switti


class Switti(upstream.UpstreamRecipe):
    name = "switti"
    summary = "Switti at 512x512 or 1024x1024 on prompts"
    upstream = "yandex-research/switti at 3b286b5"
    package = "models/switti.py"
    weights = (
        "the folder of Switti or Switti-1024",
        "the folder of VQVAE-Switti",
        "the folder of openai/clip-vit-large-patch14",
        "the folder of laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    )
    # models/pipeline.py, the defaults of __call__, which calculate_metrics.py keeps; utils/arg_util.py:58-59.
    options: ClassVar[Mapping[str, Any]] = {
        "cfg": 6.0,
        "top_k": 400,
        "top_p": 0.95,
        "more_smooth": False,
        "smooth_start_si": 0,
        "turn_off_cfg_start_si": 10,
        "turn_on_cfg_start_si": 0,
    }
    images = 30_000
    chunk = 8  # utils/arg_util.py:49, eval_batch_size
    metrics = ("fid", "kid", "is", "precision", "recall", "clip_score")
    attach = switti.attach

    def build(self, source: Source) -> None:
        self.prompts = upstream.Prompts(source, self.name)
        pipeline = upstream.module("models").SwittiPipeline
        pipeline.vae_path, pipeline.text_encoder_path, pipeline.text_encoder_2_path = map(
            str, source.weights[1:]
        )
        # models/switti.py, SwittiHF: 512 where the configuration says nothing.
        resolution = json.loads((source.weights[0] / "config.json").read_text()).get("reso", 512)
        self.pipe = pipeline.from_pretrained(
            str(source.weights[0]), torch_dtype=torch.bfloat16, device=self.device, reso=resolution
        )

    def guided(self) -> Any:
        return self.pipe

    def logits_of(self) -> tuple[Any, str]:
        return self.pipe.switti, "get_logits"

    def sample(self, setting: Setting, seed: int, indices: Sequence[int]) -> Tensor:
        prompts = [self.prompts[i] for i in indices]
        return upstream.to_bytes(self.pipe(prompts, seed=seed, return_pil=False, **dict(setting.options)))

    def prompt(self, index: int) -> str:
        return self.prompts[index]
