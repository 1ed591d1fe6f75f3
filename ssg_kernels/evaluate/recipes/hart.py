"""HART-0.7B on MJHQ-30K: Table 4 of the paper.

The protocol is that of HART's sample.py (mit-han-lab/hart at e28a41f), but for `more_smooth`. Known traps:

- sample.py has more_smooth=True, for looks. Users get FID about 10 with it (HART issues 14 and 23), and the paper
  starts from 8.46; the code says "not used when evaluating FID/IS/Precision/Recall". Here it is off by default.
- HART ignores its top_k argument and takes 600, then 300 (hart_transformer_t2i.py:409 and :486). sample.py passes no
  top_p.
- The order of the last scale comes from NumPy's global generator, and the diffusion head's noise from torch's.
- sample.py replaces prompts that ShieldGemma finds unsafe. Here every prompt stays, as MJHQ-30K has its own reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ssg_kernels.evaluate import upstream
from ssg_kernels.evaluate.recipe import AS_IN_THE_PAPER, EvaluateError, PaperRow, Source
from ssg_kernels.evaluate.setting import Setting
from ssg_kernels.integrations import hart

MAX_TOKENS = 300  # sample.py, --max_token_length


class Hart(upstream.UpstreamRecipe):
    name = "hart"
    summary = "HART-0.7B at 1024x1024 on the prompts of MJHQ-30K"
    upstream = "mit-han-lab/hart at e28a41f"
    package = "hart/modules"
    gpu = True
    weights = (
        "the folder llm of hart-0.7b-1024px, with ema_model.bin",
        "the folder Qwen2-VL-1.5B-Instruct",
    )
    # sample.py: cfg 4.5.
    options: ClassVar[Mapping[str, Any]] = {"cfg": 4.5, "more_smooth": False}
    paper = (
        PaperRow("Table 4", "HART-0.7B", {"beta": 0.0}, {"fid": 8.46, "clip_score": 0.2819}),
        PaperRow("Table 4", "HART-0.7B + SSG", AS_IN_THE_PAPER, {"fid": 7.28, "clip_score": 0.2834}),
    )
    images = 30_000
    chunk = 4  # sample.py draws 4 prompts at once
    metrics = ("fid", "kid", "is", "precision", "recall", "clip_score")
    attach = hart.attach

    def build(self, source: Source) -> None:
        self.prompts = upstream.Prompts(source, self.name)
        models = upstream.module("hart.modules.models.transformer")
        from transformers import AutoModel, AutoTokenizer  # type: ignore[import-untyped,unused-ignore]

        folder, text = source.weights
        ema = folder / "ema_model.bin"
        if not ema.exists():
            raise EvaluateError(f"--weights {folder} has no ema_model.bin, which sample.py takes by default")
        # sample.py loads the model, then ema_model.bin over all of it. HART looks for its tokenizer in ../tokenizer.
        config = models.HARTForT2IConfig.from_pretrained(folder)
        config.name_or_path = str(folder)
        self.hart = models.HARTForT2I(config).to(self.device).eval()
        upstream.fill(self.hart, upstream.state_dict(ema), ema)
        self.tokenizer = AutoTokenizer.from_pretrained(text)
        # In float32, whatever the files have: so do the versions of transformers that HART was written for.
        self.text = AutoModel.from_pretrained(text).float().to(self.device).eval()

    def guided(self) -> Any:
        return self.hart

    def encoded(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Text features, mask and positions, as sample.py makes them."""
        utils = upstream.module("hart.utils")
        _, mask, positions, features = utils.encode_prompts(
            list(prompts), self.text, self.tokenizer, MAX_TOKENS, utils.llm_system_prompt, True
        )
        return features, mask, positions

    @torch.inference_mode()
    def sample(self, setting: Setting, seed: int, indices: Sequence[int]) -> Tensor:
        torch.manual_seed(seed)
        np.random.seed(seed)
        # sample.py: autocast to float16 around the text model too.
        with self.autocast(torch.float16):
            features, mask, positions = self.encoded([self.prompts[i] for i in indices])
            images = self.hart.autoregressive_infer_cfg(
                B=len(indices),
                label_B=features,
                g_seed=seed,
                context_position_ids=positions,
                context_mask=mask,
                **dict(setting.options),
            )
        return upstream.to_bytes(images)

    def prompt(self, index: int) -> str:
        return self.prompts[index]
