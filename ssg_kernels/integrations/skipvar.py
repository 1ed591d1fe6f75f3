"""SkipVAR on Infinity (fakerone-li/SkipVAR at 607be0e)."""

from __future__ import annotations

from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations.infinity import InfinityCall

__all__ = ["attach"]


class _Call(InfinityCall):
    """Guide an Infinity with SkipVAR: inside the context `model.autoregressive_infer_cfg_SkipVAR(...)` is guided.

    So is Infinity's own `autoregressive_infer_cfg`. The decay counts all scales of the schedule, those that SkipVAR
    leaves out too.
    """

    upstream = "fakerone-li/SkipVAR at 607be0e"
    methods = ("autoregressive_infer_cfg_SkipVAR", "autoregressive_infer_cfg")


attach = Integration(_Call)
