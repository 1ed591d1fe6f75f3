"""VAR (FoundationVision/VAR at 78b9539), and two that sample as it does: FlexVAR (04462cb), ImageFolder (76ddfb9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations._next_scale import NextScale

__all__ = ["attach"]


class _Call(NextScale):
    """Guide a VAR, FlexVAR or ImageFolder: inside the context `model.autoregressive_infer_cfg(...)` is guided.

    The scales are the `patch_nums` of the model, or the `infer_patch_nums` of the call (FlexVAR).
    """

    upstream = "FoundationVision/VAR at 78b9539"

    def start(self) -> None:
        # ImageFolder samples the parts of its product quantisation in turn, each from its share of the columns.
        vae = getattr(self.model, "vae_proxy", [None])[0]
        parts = getattr(vae, "product_quant", 1) if self.guidance.cfg_order == "after" else 1
        self.begin([self.guidance.ssg(self.sizes()) for _ in range(parts)])

    def sizes(self) -> Sequence[Any]:
        sizes: Sequence[Any] = self.arguments.get("infer_patch_nums", self.model.patch_nums)
        return sizes


attach = Integration(_Call)
