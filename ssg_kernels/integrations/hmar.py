"""HMAR (NVlabs/HMAR at 595a9df)."""

from __future__ import annotations

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

_METHOD, _SAMPLER = "generate", "sample_with_top_k_top_p_"


def attach(
    model: Any,
    beta: SupportsFloat | Tensor,
    schedule: str | Sequence[SupportsFloat] = "linear",
    prior: str = "dse",
    interpolation: str = "bilinear",
    rescale: bool = False,
    cfg_order: str = "after",
) -> AbstractContextManager[Any]:
    """Guide an HMAR: inside the context the next-scale predictions of `model.generate(...)` are guided.

    The masked refinements within a scale are not, and k counts scales only.

    Args:
        model: the `HMAR`.
        beta, schedule, prior, interpolation, rescale: as for `ssg_kernels.SSG`.
        cfg_order: "after" guides the logits that cfg has merged; "before" guides both halves.

    Returns:
        A context manager. It enters with the model.

    Raises:
        ValueError: an argument is none of the above, or the model is not what this was written for: the
            message names what is missing, and the upstream commit.
    """
    target = Target(model, __name__, "NVlabs/HMAR at 595a9df")
    settings = Settings(beta, schedule, prior, interpolation, rescale, cfg_order)
    namespace = target.need_global(_METHOD, _SAMPLER)
    for name in ("patch_nums", "get_ns_logits", "get_mask_logits"):
        target.need(name)

    def hooks(call: Mapping[str, Any]) -> Sequence[AbstractContextManager[Any]]:
        ssg = settings.ssg(target.model.patch_nums)
        if settings.before:
            return [replaced(target.model, "get_ns_logits", guided_result(ssg))]
        is_prediction = False

        def predict(get_ns_logits: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
            nonlocal is_prediction
            is_prediction = True
            return get_ns_logits(*args, **kwargs)

        def around(sampler: Callable[..., Any], logits: Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal is_prediction
            if is_prediction:
                ssg(logits, out=logits)
            is_prediction = False
            return sampler(logits, *args, **kwargs)

        return [
            replaced(target.model, "get_ns_logits", predict),
            replaced_global(namespace, _SAMPLER, around),
        ]

    return attached(target, [_METHOD], hooks)
