"""HMAR (NVlabs/HMAR at 595a9df)."""

from __future__ import annotations

from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations._next_scale import NextScale

__all__ = ["attach"]


class _Call(NextScale):
    """Guide an HMAR: inside the context the next-scale predictions of `model.generate(...)` are guided.

    The masked refinements within a scale are not guided, and k counts scales only.
    """

    upstream = "NVlabs/HMAR at 595a9df"
    methods = ("generate",)
    maker = "get_ns_logits"
    others = ("get_mask_logits",)


attach = Integration(_Call)
