"""HART (mit-han-lab/hart at e28a41f)."""

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
    """Guide a HART: inside the context `model.autoregressive_infer_cfg(...)` is guided, the last scale too.

    Args:
        model: the `HARTForT2I`.
        beta, schedule, prior, interpolation, rescale: as for `ssg_kernels.SSG`.
        cfg_order: "after" guides the logits that cfg has merged; "before" guides both halves.

    Returns:
        A context manager. It enters with the model.

    Raises:
        ValueError: an argument is none of the above, or the model is not what this was written for: the
            message names what is missing, and the upstream commit. Inside the context, a call with
            `num_maskgit_iters` above 1: its last scale comes in pieces, which have no grid.
    """
    target = Target(model, __name__, "mit-han-lab/hart at e28a41f")
    settings = Settings(beta, schedule, prior, interpolation, rescale, cfg_order)
    namespace = target.need_global(_METHOD, _SAMPLER)
    for name in ("patch_nums", "get_logits"):
        target.need(name)

    def hooks(call: Mapping[str, Any]) -> Sequence[AbstractContextManager[Any]]:
        if call.get("num_maskgit_iters", 1) != 1:
            raise target.refuse(
                "num_maskgit_iters must be 1, so that the last scale is one grid, "
                f"got {call['num_maskgit_iters']}"
            )
        ssg = settings.ssg(target.model.patch_nums)
        if not settings.before:
            return [replaced_global(namespace, _SAMPLER, guided_argument(itertools.repeat(ssg)))]

        def around(get_logits: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
            logits = get_logits(*args, **kwargs)
            # The first scale is the last position of the text.
            source = logits if ssg.step else logits[:, -1:]
            ssg(source, out=source)
            return logits

        return [replaced(target.model, "get_logits", around)]

    return attached(target, [_METHOD], hooks)
