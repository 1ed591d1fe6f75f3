"""AAR (qiuk2/AAR at eaaf1bc), which generates audio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations._next_scale import NextScale

__all__ = ["attach"]


class _Call(NextScale):
    """Guide an AAR: inside the context `model.autoregressive_infer_cfg(...)` is guided.

    The scales are rows of `patch_nums` tokens.
    """

    upstream = "qiuk2/AAR at eaaf1bc"
    needs = ("patch_nums", "uncond_embedding")

    def sizes(self) -> Sequence[Any]:
        return [(n,) for n in self.model.patch_nums]


attach = Integration(_Call)
