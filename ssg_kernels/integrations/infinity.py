"""Infinity (FoundationVision/Infinity at 4c27bbb), 2B and 8B, every aspect ratio."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations._next_scale import NextScale

__all__ = ["attach"]


class InfinityCall(NextScale):
    """Guide an Infinity: inside the context `model.autoregressive_infer_cfg(...)` is guided.

    `gen_one_img` calls that method, so it is guided too. The scales are the `scale_schedule` of each call. The
    vocabulary is the 2d channels of d bits. `cfg_order="after"` guides after the temperature tau too, "before" before
    either. A `scale_schedule` of more than one frame raises ValueError, and with "before" so does cfg that is 1 at a
    scale and not at the next.
    """

    upstream = "FoundationVision/Infinity at 4c27bbb"
    sampler = "sample_with_top_k_top_p_also_inplace_modifying_logits_"
    needs = ()
    takes = ("scale_schedule", "cfg_list", "cfg_insertion_layer")

    def sizes(self) -> Sequence[Any]:
        scales = self.arguments["scale_schedule"]
        if any(frames != 1 for frames, _, _ in scales):
            raise self.target.refuse(f"scale_schedule must be of single frames, (1, h, w), got {scales}")
        cfgs = self.arguments["cfg_list"][: len(scales)]
        is_on_logits = self.guidance.cfg_order == "before" and 0 in self.arguments["cfg_insertion_layer"]
        if is_on_logits and any(a == 1 != b for a, b in itertools.pairwise(cfgs)):
            raise self.target.refuse(
                "cfg_order='before' needs both halves of the scale before, and cfg 1 has one only: "
                f"cfg_list must not go from 1 to another value, got {cfgs}"
            )
        return [(h, w) for _, h, w in scales]

    def merged(self, logits: Tensor) -> Tensor:
        # (B, h*w*d, 2) is a view of (B, h*w, 2d).
        return logits.view(logits.shape[0], -1, self.vocabulary)


attach = Integration(InfinityCall)
