"""SAR3D (read and run in HaooChenn/SAR3D_reproduce at f40a460), which generates the three planes of an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssg_kernels.integrations._integration import Integration
from ssg_kernels.integrations._next_scale import NextScale

__all__ = ["attach"]


class _FromImage(NextScale):
    """Guide a SAR3D: inside the context `model.autoregressive_infer_cfg_3D_VAR_image_l2norm(...)` is guided.

    Of a model of text it is `autoregressive_infer_cfg_3D_VAR_text_l2norm`. Each plane is guided by the same plane of
    the scale before.
    """

    upstream = "HaooChenn/SAR3D_reproduce at f40a460"
    methods = ("autoregressive_infer_cfg_3D_VAR_image_l2norm",)

    def sizes(self) -> Sequence[Any]:
        return [(3, n, n) for n in self.model.patch_nums]


class _FromText(_FromImage):
    methods = ("autoregressive_infer_cfg_3D_VAR_text_l2norm",)

    @classmethod
    def serves(cls, model: Any) -> bool:
        return hasattr(model, cls.methods[0])


attach = Integration(_FromText, _FromImage)
