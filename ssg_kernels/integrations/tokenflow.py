"""TokenFlow (ByteFlow-AI/TokenFlow at 9812da0), text to image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations._next_scale import NextScale

__all__ = ["attach"]


class _Call(NextScale):
    """Guide a TokenFlow: inside the context `model.autoregressive_infer_cfg(...)` is guided.

    The vocabulary is that of the image ids. A scale is predicted once for each entry of `topk_list`, the first scale
    once; k counts scales, and all predictions of a scale have one prior.
    """

    upstream = "ByteFlow-AI/TokenFlow at 9812da0"
    maker = "forward"
    needs = ("get_vision_tower",)
    takes = ("prefix_text_codes", "topk_list", "topp_list")

    def start(self) -> None:
        sides = self.model.get_vision_tower().scale_rq_layers
        repeats = [1] + [len(self.arguments["topk_list"])] * (len(sides) - 1)
        self.begin([self.guidance.ssg(sides, repeats)])
        self.first_id = int(getattr(self.model, "image_token_start", 0))
        # The last position of each prompt predicts the first scale. The list grows while the method runs.
        self.prompts = [len(codes) - 1 for codes in self.arguments["prefix_text_codes"]]

    def merged(self, logits: Tensor) -> Tensor:
        return logits[..., self.first_id :]

    def make(self, maker: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outputs = maker(*args, **kwargs)
        super().make(lambda: outputs[0])
        return outputs

    def guide_halves(self, maker: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outputs = maker(*args, **kwargs)
        # The scale lies elsewhere in each row, since prompts differ in length.
        *before, due = self.ssgs[0].generation.grids[: self.ssgs[0].step + 1]
        scale = torch.arange(due.tokens) + sum(grid.tokens for grid in before)
        positions = (torch.tensor(self.prompts)[:, None] + scale).to(outputs[0].device)
        rows, ids = torch.arange(len(positions))[:, None], slice(self.first_id, None)
        outputs[0][rows, positions, ids] = super().guide_halves(lambda: outputs[0][rows, positions, ids])
        return outputs


attach = Integration(_Call)
