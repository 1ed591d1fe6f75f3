"""Infinity-2B on MJHQ-30K: Table 4 of the paper.

The protocol is that of Infinity's scripts/eval.sh (FoundationVision/Infinity at 4c27bbb). Known traps:

- eval.sh has cfg 4 and tau 1; infer.sh has tau 0.5, for looks. The paper names neither.
- eval.sh rewrites prompts for GenEval (issue 42). MJHQ-30K is evaluated with the prompts as they are.
- The model gives images with blue first, as OpenCV takes them (infinity.py:641).
- gen_one_img makes one image a call, so every image has a seed of its own.
- Infinity's own FID script is pytorch-fid. torch-fidelity's Inception has the same weights.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssg_kernels.evaluate import upstream
from ssg_kernels.evaluate.recipe import AS_IN_THE_PAPER, PaperRow, Source, chunk_seed
from ssg_kernels.evaluate.setting import Setting
from ssg_kernels.integrations import infinity

# scripts/eval.sh, "set arguments for inference".
ARGUMENTS: dict[str, Any] = {
    "pn": "1M", "model_type": "infinity_2b", "use_scale_schedule_embedding": 0, "use_bit_label": 1,
    "checkpoint_type": "torch", "vae_type": 32, "rope2d_normalized_by_hw": 2,
    "add_lvl_embeding_only_first_block": 1, "rope2d_each_sa_layer": 1, "text_channels": 2048,
    "apply_spatial_patchify": 0, "cfg_insertion_layer": 0, "use_flex_attn": 0, "bf16": 1,
    "cache_dir": "", "enable_model_cache": 0,
}  # fmt: skip


class Infinity(upstream.UpstreamRecipe):
    name = "infinity"
    summary = "Infinity-2B at 1024x1024 on the prompts of MJHQ-30K"
    upstream = "FoundationVision/Infinity at 4c27bbb"
    package = "tools/run_infinity.py"
    gpu = True
    weights = (
        "the transformer, infinity_2b_reg.pth",
        "the VAE, infinity_vae_d32reg.pth",
        "the folder of the text model, flan-t5-xl",
    )
    # eval.sh: cfg 4, tau 1. run_infinity.py:87-88: top_k 900, top_p 0.97.
    options: ClassVar[Mapping[str, Any]] = {"cfg": 4.0, "tau": 1.0, "top_k": 900, "top_p": 0.97}
    paper = (
        PaperRow("Table 4", "Infinity-2B", {"beta": 0.0}, {"fid": 10.01, "clip_score": 0.2754}),
        PaperRow("Table 4", "Infinity-2B + SSG", AS_IN_THE_PAPER, {"fid": 9.68, "clip_score": 0.2767}),
    )
    images = 30_000
    chunk = 10
    metrics = ("fid", "kid", "is", "precision", "recall", "clip_score")
    attach = infinity.attach

    def build(self, source: Source) -> None:
        self.prompts = upstream.Prompts(source, self.name)
        self.tools = upstream.module("tools.run_infinity")
        model, vae, text = source.weights
        # The loader takes what it knows out of this dict, and says nothing about the rest.
        tensors = upstream.state_dict(vae, "vae")
        count = len(tensors)
        arguments = Namespace(
            **ARGUMENTS, model_path=str(model), vae_path={"vae": tensors}, text_encoder_ckpt=str(text)
        )
        self.tokenizer, self.text = self.tools.load_tokenizer(t5_path=str(text))
        self.vae = self.tools.load_visual_tokenizer(arguments)
        upstream.require_most(count - len(tensors), count, "Infinity's VAE")
        self.infinity = self.tools.load_transformer(self.vae, arguments)
        ratios = upstream.module("infinity.utils.dynamic_resolution").dynamic_resolution_h_w
        self.scales = [(1, h, w) for _, h, w in ratios[1.0][ARGUMENTS["pn"]]["scales"]]

    def guided(self) -> Any:
        return self.infinity

    @torch.no_grad()
    def sample(self, setting: Setting, seed: int, indices: Sequence[int]) -> Tensor:
        images = []
        for i in indices:
            image = self.tools.gen_one_img(
                self.infinity,
                self.vae,
                self.tokenizer,
                self.text,
                self.prompts[i],
                g_seed=chunk_seed(seed, i),
                gt_leak=0,
                gt_ls_Bl=None,
                cfg_list=setting["cfg"],
                tau_list=setting["tau"],
                scale_schedule=self.scales,
                cfg_insertion_layer=[ARGUMENTS["cfg_insertion_layer"]],
                vae_type=ARGUMENTS["vae_type"],
                sampling_per_bits=1,
                enable_positive_prompt=0,
                top_k=setting["top_k"],
                top_p=setting["top_p"],
            )
            images.append(image.flip(-1).permute(2, 0, 1))  # blue first, (H, W, 3)
        return torch.stack(images)

    def prompt(self, index: int) -> str:
        return self.prompts[index]
