"""MVAR (CVL-UESTC/MVAR at d0e035a)."""

from __future__ import annotations

from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations._next_scale import NextScale

__all__ = ["attach"]


class _Call(NextScale):
    """Guide an MVAR: inside the context `model.autoregressive_infer(...)` is guided."""

    upstream = "CVL-UESTC/MVAR at d0e035a"
    methods = ("autoregressive_infer",)


attach = Integration(_Call)
