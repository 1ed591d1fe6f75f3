"""Switti (yandex-research/switti at 3b286b5)."""

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
    guided_argument,
    guided_result,
    replaced,
    replaced_global,
)

__all__ = ["attach"]

_METHOD = "__call__"
_SAMPLER, _SMOOTH_SAMPLER = "sample_with_top_k_top_p_", "gumbel_softmax_with_rng"


def attach(
    model: Any,
    beta: SupportsFloat | Tensor,
    schedule: str | Sequence[SupportsFloat] = "linear",
    prior: str = "dse",
    interpolation: str = "bilinear",
    rescale: bool = False,
    cfg_order: str = "after",
) -> AbstractContextManager[Any]:
    """Guide a Switti: inside the context `model(prompt, ...)` is guided, with and without `more_smooth`.

    Args:
        model: the `SwittiPipeline`.
        beta, schedule, prior, interpolation, rescale: as for `ssg_kernels.SSG`.
        cfg_order: "after" guides the logits that cfg has merged; "before" guides both halves, and only the
            conditional one from where cfg is off. "before" is the better choice while `turn_off_cfg_start_si`
            is within the scales: merged logits are far larger than those that follow.

    Returns:
        A context manager. It enters with the pipeline.

    Raises:
        ValueError: an argument is none of the above, or the model is not what this was written for: the
            message names what is missing, and the upstream commit.
    """
    target = Target(model, __name__, "yandex-research/switti at 3b286b5")
    settings = Settings(beta, schedule, prior, interpolation, rescale, cfg_order)
    for name in (_SAMPLER, _SMOOTH_SAMPLER):
        namespace = target.need_global(_METHOD, name)
    for name in ("switti.patch_nums", "switti.num_stages_minus_1", "switti.get_logits"):
        target.need(name)
    switti = target.model.switti

    def hooks(call: Mapping[str, Any]) -> Sequence[AbstractContextManager[Any]]:
        ssg = settings.ssg(switti.patch_nums)
        if settings.before:
            return [replaced(switti, "get_logits", guided_result(ssg))]
        halves: Tensor

        def remember(get_logits: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
            nonlocal halves
            halves = get_logits(*args, **kwargs)
            return halves

        def smooth(gumbel: Callable[..., Any], scaled: Tensor, *args: Any, **kwargs: Any) -> Any:
            # It is handed a multiple of the merged logits: merge them as the pipeline did, to the bit.
            ratio = ssg.step / switti.num_stages_minus_1
            cond, uncond = halves.split(scaled.shape[0])
            if ssg.step >= call["turn_on_cfg_start_si"]:
                t = call["cfg"] * ratio
                cond = (1 + t) * cond - t * uncond
            return gumbel(ssg(cond).mul(1 + ratio), *args, **kwargs)

        return [
            replaced(switti, "get_logits", remember),
            replaced_global(namespace, _SAMPLER, guided_argument(itertools.repeat(ssg))),
            replaced_global(namespace, _SMOOTH_SAMPLER, smooth),
        ]

    return attached(target, [_METHOD], hooks)
