"""VARGPT-v1.1 (VARGPT-family/VARGPT-v1.1 at 8c67c26)."""

from __future__ import annotations

from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations.infinity import InfinityCall

__all__ = ["attach"]


class _Call(InfinityCall):
    """Guide a VARGPT-v1.1: inside the context the images of `model.generate(...)` are guided.

    `generate` comes to `model.autoregressive_infer_cfg`, which samples as Infinity does. Text is not guided.
    """

    upstream = "VARGPT-family/VARGPT-v1.1 at 8c67c26"
    maker = "vargpt_gen.get_logits"


attach = Integration(_Call)
