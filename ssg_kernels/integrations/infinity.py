"""Infinity (FoundationVision/Infinity at 4c27bbb), 2B and 8B, every aspect ratio."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, SupportsFloat

from torch import Tensor

from ssg_kernels.integrations._attach import (
    Settings,
    Target,
    attached,
    guided_result,
    replaced,
    replaced_global,
)

__all__ = ["attach"]

_METHOD, _SAMPLER = "autoregressive_infer_cfg", "sample_with_top_k_top_p_also_inplace_modifying_logits_"


def attach(
    model: Any,
    beta: SupportsFloat | Tensor,
    schedule: str | Sequence[SupportsFloat] = "linear",
    prior: str = "dse",
    interpolation: str = "bilinear",
    rescale: bool = False,
    cfg_order: str = "after",
) -> AbstractContextManager[Any]:
    """Guide an Infinity: inside the context `model.autoregressive_infer_cfg(...)` is guided.

    Args:
        model: the `Infinity`, also where `gen_one_img` is what calls it. The scales are the `scale_schedule`
            of each call.
        beta, schedule, prior, interpolation, rescale: as for `ssg_kernels.SSG`. The vocabulary is the 2d
            channels of d bits.
        cfg_order: "after" guides the logits that cfg has merged, after the temperature tau; "before" guides
            both halves before either.

    Returns:
        A context manager. It enters with the model.

    Raises:
        ValueError: an argument is none of the above, or the model is not what this was written for: the
            message names what is missing, and the upstream commit. Inside the context: a `scale_schedule`
            of more than one frame; with "before", cfg that is 1 at a scale and not at the next.
    """
    target = Target(model, __name__, "FoundationVision/Infinity at 4c27bbb")
    settings = Settings(beta, schedule, prior, interpolation, rescale, cfg_order)
    namespace = target.need_global(_METHOD, _SAMPLER)
    target.need("get_logits")

    def hooks(call: Mapping[str, Any]) -> Sequence[AbstractContextManager[Any]]:
        scales = call["scale_schedule"]
        if any(frames != 1 for frames, _, _ in scales):
            raise target.refuse(f"scale_schedule must be of single frames, (1, h, w), got {scales}")
        ssg = settings.ssg([(h, w) for _, h, w in scales])
        if settings.before:
            cfgs = call["cfg_list"][: len(scales)]
            if 0 in call["cfg_insertion_layer"] and any(a == 1 != b for a, b in itertools.pairwise(cfgs)):
                raise target.refuse(
                    "cfg_order='before' needs both halves of the scale before, and cfg 1 has one only: "
                    f"cfg_list must not go from 1 to another value, got {cfgs}"
                )
            return [replaced(target.model, "get_logits", guided_result(ssg))]

        def around(sampler: Callable[..., Any], logits: Tensor, *args: Any, **kwargs: Any) -> Any:
            # (B, h*w*d, 2), a view of (B, h*w, 2d)
            h, w = ssg.sizes[ssg.step]
            channels = logits.view(logits.shape[0], h * w, -1)
            ssg(channels, out=channels)
            return sampler(logits, *args, **kwargs)

        return [replaced_global(namespace, _SAMPLER, around)]

    return attached(target, [_METHOD], hooks)
