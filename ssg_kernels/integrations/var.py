"""VAR (FoundationVision/VAR at 78b9539), and what samples as it does: FlexVAR (04462cb), ImageFolder (76ddfb9)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, SupportsFloat

from torch import Tensor

from ssg_kernels.integrations._attach import (
    Settings,
    Target,
    attached,
    guided_argument,
    guided_result,
    replaced,
    replaced_global,
)

__all__ = ["attach"]

_METHOD, _SAMPLER = "autoregressive_infer_cfg", "sample_with_top_k_top_p_"


def attach(
    model: Any,
    beta: SupportsFloat | Tensor,
    schedule: str | Sequence[SupportsFloat] = "linear",
    prior: str = "dse",
    interpolation: str = "bilinear",
    rescale: bool = False,
    cfg_order: str = "after",
) -> AbstractContextManager[Any]:
    """Guide a VAR, FlexVAR or ImageFolder: inside the context `model.autoregressive_infer_cfg(...)` is guided.

    Args:
        model: the module that has the sampling method. The scales are its `patch_nums`, or the
            `infer_patch_nums` of the call (FlexVAR).
        beta, schedule, prior, interpolation, rescale: as for `ssg_kernels.SSG`.
        cfg_order: "after" guides the logits that cfg has merged; "before" guides both halves.

    Returns:
        A context manager. It enters with the model.

    Raises:
        ValueError: an argument is none of the above, or the model is not what this was written for: the
            message names what is missing, and the upstream commit.
    """
    target = Target(model, __name__, "FoundationVision/VAR at 78b9539")
    settings = Settings(beta, schedule, prior, interpolation, rescale, cfg_order)
    namespace = target.need_global(_METHOD, _SAMPLER)
    for name in ("patch_nums", "get_logits"):
        target.need(name)

    def hooks(call: Mapping[str, Any]) -> Sequence[AbstractContextManager[Any]]:
        sizes = call.get("infer_patch_nums", target.model.patch_nums)
        if settings.before:
            return [replaced(target.model, "get_logits", guided_result(settings.ssg(sizes)))]
        # ImageFolder samples the parts of its product quantisation in turn, each from its share of the columns.
        vae = getattr(target.model, "vae_proxy", [None])[0]
        parts = [settings.ssg(sizes) for _ in range(getattr(vae, "product_quant", 1))]
        return [replaced_global(namespace, _SAMPLER, guided_argument(itertools.cycle(parts)))]

    return attached(target, [_METHOD], hooks)
