"""HART (mit-han-lab/hart at e28a41f)."""

from __future__ import annotations

from torch import Tensor

from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations._next_scale import NextScale

__all__ = ["attach"]


class _Call(NextScale):
    """Guide a HART (`HARTForT2I`): inside the context `model.autoregressive_infer_cfg(...)` is guided.

    The last scale is guided too. A call with `num_maskgit_iters` above 1 raises ValueError: its last scale comes in
    pieces, which have no grid.
    """

    upstream = "mit-han-lab/hart at e28a41f"
    takes = ("num_maskgit_iters",)

    def start(self) -> None:
        pieces = self.arguments.get("num_maskgit_iters", 1)
        if pieces != 1:
            raise self.target.refuse(
                f"num_maskgit_iters must be 1, so that the last scale is one grid, got {pieces}"
            )
        super().start()

    def halves(self, logits: Tensor) -> Tensor:
        # The first scale is the last position of the text.
        return logits if self.ssgs[0].step else logits[:, -1:]


attach = Integration(_Call)
