"""VAR on ImageNet 256 and 512: Tables 1, 2, 3 and 5 of the paper.

The protocol is that of VAR's README (FoundationVision/VAR at 78b9539, "Sampling & Zero-shot Inference"). Known traps:

- One seed for every batch repeats the same random numbers 1000 times: FID 4.24 instead of 3.55 (VAR issue 69). Here
  every chunk has a seed of its own.
- VAR's paper has cfg 2.0, its README 1.5 (issue 86). Without cfg the FID is 12.1 (issue 180).
- VAR's zoo has FID 3.55, 2.95, 2.33 and 1.97 for d16, d20, d24 and d30. The SSG paper evaluated the released weights
  again and starts from 3.42, 2.67, 2.39 and 2.02.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssg_kernels.evaluate import upstream
from ssg_kernels.evaluate.recipe import AS_IN_THE_PAPER, PaperRow, Source
from ssg_kernels.evaluate.setting import Setting
from ssg_kernels.integrations import var

# models/__init__.py and utils/arg_util.py:244-249 at 78b9539, by the number of tokens.
SCALES = {680: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 2240: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)}


def _pair(table: str, model: str, names: str, plain: str, guided: str) -> tuple[PaperRow, PaperRow]:
    def figures(text: str) -> dict[str, float]:
        return dict(zip(names.split(), map(float, text.split()), strict=True))

    without = PaperRow(table, model, {"model": model, "beta": 0.0}, figures(plain))
    return without, PaperRow(table, f"{model} + SSG", {"model": model} | AS_IN_THE_PAPER, figures(guided))


def _ablation(name: str, conditions: Mapping[str, Any], fid: float, score: float) -> PaperRow:
    return PaperRow(
        "Table 5", f"VAR-d16, {name}", {"model": "VAR-d16"} | dict(conditions), {"fid": fid, "is": score}
    )


_FOUR = "fid is precision recall"
_PAPER = (
    *_pair("Table 1", "VAR-d16", _FOUR, "3.42 275.6 0.84 0.51", "3.27 285.3 0.85 0.50"),
    *_pair("Table 1", "VAR-d20", _FOUR, "2.67 299.8 0.83 0.55", "2.49 305.2 0.83 0.56"),
    *_pair("Table 1", "VAR-d24", _FOUR, "2.39 314.7 0.82 0.58", "2.20 324.0 0.83 0.59"),
    *_pair("Tables 1 and 2", "VAR-d30", _FOUR, "2.02 302.9 0.82 0.60", "1.68 313.2 0.81 0.62"),
    *_pair("Table 3", "VAR-d36", "fid is", "2.70 290.6", "2.39 320.6"),
    _ablation("nearest", {"prior": "spatial", "interpolation": "nearest", "schedule": "linear"}, 4.02, 229.1),
    _ablation("linear", {"prior": "spatial", "interpolation": "bilinear", "schedule": "linear"}, 3.79, 234.8),
    _ablation("DSE zero-padded", {"prior": "dse_zero_pad", "schedule": "linear"}, 3.34, 277.6),
    _ablation("DSE without decay", {"prior": "dse", "schedule": "static"}, 3.63, 287.8),
)


class Var(upstream.UpstreamRecipe):
    name = "var"
    summary = "VAR on ImageNet: 256x256 with d16, d20, d24, d30, and 512x512 with d36"
    upstream = "FoundationVision/VAR at 78b9539"
    package = "models/var.py"
    weights = ("the transformer, such as var_d16.pth", "the VAE, vae_ch160v4096z32.pth")
    # README.md, "For FID evaluation": cfg=1.5, top_p=0.96, top_k=900, more_smooth=False, 50,000 images, 50 a class.
    options: ClassVar[Mapping[str, Any]] = {"cfg": 1.5, "top_k": 900, "top_p": 0.96, "more_smooth": False}
    paper = _PAPER
    images = 50_000
    chunk = 50
    attach = var.attach

    def build(self, source: Source) -> None:
        models = upstream.module("models")
        path, vae_path = source.weights
        weights, vae_weights = upstream.state_dict(path), upstream.state_dict(vae_path)
        scales = SCALES[weights["lvl_1L"].shape[1]]
        depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        classes = weights["class_emb.weight"].shape[0] - 1
        vocabulary, channels = vae_weights["quantize.embedding.weight"].shape
        width = vae_weights["encoder.conv_in.weight"].shape[0]
        vae, self.var = models.build_vae_var(
            device=self.device,
            patch_nums=scales,
            V=vocabulary,
            Cvae=channels,
            ch=width,
            num_classes=classes,
            depth=depth,
            shared_aln=any(name.startswith("shared_ada_lin.1") for name in weights),  # d36 has it
        )
        upstream.fill(vae, vae_weights, vae_path)
        upstream.fill(self.var, weights, path)
        for network in (vae, self.var):
            network.eval().requires_grad_(False)
        self.var.rng = torch.Generator(device=self.device)
        self.classes = classes
        self.model_name = f"VAR-d{depth}"

    def guided(self) -> Any:
        return self.var

    @torch.inference_mode()
    def sample(self, setting: Setting, seed: int, indices: Sequence[int]) -> Tensor:
        labels = torch.tensor([i % self.classes for i in indices], device=self.device)
        # demo_sample.ipynb: autocast to float16.
        with self.autocast(torch.float16):
            images = self.var.autoregressive_infer_cfg(
                B=len(indices), label_B=labels, g_seed=seed, **dict(setting.options)
            )
        return upstream.to_bytes(images)

    def prompt(self, index: int) -> str:
        return f"class {index % self.classes}"
