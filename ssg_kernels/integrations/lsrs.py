"""LSRS on VAR (dt-3t/LSRS at 22c26fe)."""

from __future__ import annotations

from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations._next_scale import NextScale

__all__ = ["attach"]


class _Call(NextScale):
    """Guide a VAR with LSRS: inside the context `model.autoregressive_infer_cfg_lsrs(...)` is guided.

    So are `autoregressive_infer_cfg_idx` and VAR's own `autoregressive_infer_cfg`. All candidates of a scale are drawn
    from the guided logits.
    """

    upstream = "dt-3t/LSRS at 22c26fe"
    methods = (
        "autoregressive_infer_cfg_lsrs",
        "autoregressive_infer_cfg_idx",
        "autoregressive_infer_cfg",
    )


attach = Integration(_Call)
