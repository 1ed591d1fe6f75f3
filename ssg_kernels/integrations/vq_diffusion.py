"""VQ-Diffusion (microsoft/VQ-Diffusion at d1d3948), and diffusers' `VQDiffusionPipeline` (58eb52c, release 0.42.1)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, SupportsFloat

from torch import Tensor

from ssg_kernels.guidance import SSG
from ssg_kernels.integrations._attach import Settings, Target, attached, replaced

__all__ = ["attach"]


def attach(
    model: Any,
    beta: SupportsFloat | Tensor,
    schedule: str | Sequence[SupportsFloat] = "linear",
    prior: str = "dse",
    interpolation: str = "bilinear",
    rescale: bool = False,
    cfg_order: str = "after",
) -> AbstractContextManager[Any]:
    """Guide a VQ-Diffusion: inside the context `model.generate_content(...)` or `pipeline(...)` is guided.

    Every step has the same grid, so every prior is the previous step's logits themselves. k counts the
    denoising steps of the call. Each branch is guided on the transformer's output, before the log-softmax.

    Args:
        model: Microsoft's `DALLE`, `C_DALLE` or `UC_DALLE`, or diffusers' `VQDiffusionPipeline`.
        beta, schedule, prior, interpolation, rescale: as for `ssg_kernels.SSG`.
        cfg_order: no matter here, where the scale of cfg is constant: guiding both branches and merging then
            is the same as merging first.

    Returns:
        A context manager. It enters with the model.

    Raises:
        ValueError: an argument is none of the above, or the model is not what this was written for: the
            message names what is missing, and the upstream commit.
    """
    target = Target(model, __name__, "microsoft/VQ-Diffusion at d1d3948 and huggingface/diffusers at 58eb52c")
    settings = Settings(beta, schedule, prior, interpolation, rescale, cfg_order)
    if hasattr(target.model, "scheduler"):
        return _diffusers(target, settings)
    return _microsoft(target, settings)


def _same_grid(settings: Settings, steps: int, logits: Tensor) -> SSG:
    # On one grid every prior is the previous logits, whatever the sides.
    return settings.ssg([(1, logits.shape[1])] * steps)


def _diffusers(target: Target, settings: Settings) -> AbstractContextManager[Any]:
    head = target.need("transformer.out")

    def hooks(call: Mapping[str, Any]) -> Sequence[AbstractContextManager[Any]]:
        ssg: SSG | None = None

        def around(forward: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
            nonlocal ssg
            logits = forward(*args, **kwargs)
            if ssg is None:
                ssg = _same_grid(settings, call["num_inference_steps"], logits)
            # Both branches, one batch.
            return ssg(logits)

        return [replaced(head, "forward", around)]

    return attached(target, ["__call__"], hooks)


def _microsoft(target: Target, settings: Settings) -> AbstractContextManager[Any]:
    network = target.need("transformer.transformer")
    timesteps = target.need("transformer.num_timesteps")

    def hooks(call: Mapping[str, Any]) -> Sequence[AbstractContextManager[Any]]:
        start = int(timesteps * call["filter_ratio"]) or timesteps
        indices = range(start - 1, -1, -1 - call.get("skip_step", 0))
        steps = len(indices) + (indices[-1] != 0)
        # By branch: the guidance as it was before this step, and after it.
        before: dict[bool, SSG] = {}
        after: dict[bool, SSG] = {}
        first_condition: list[Any] = []
        step_t: Any = None

        def around(forward: Callable[..., Tensor], tokens: Any, condition: Any, t: Any) -> Tensor:
            nonlocal step_t
            logits = forward(tokens, condition, t).transpose(1, 2)
            # The sampler makes one `t` for each step, which it may try again (`prior_rule`), and asks for the
            # conditional branch first, with one condition for the whole call.
            if t is not step_t:
                step_t = t
                before.update(after)
            if not first_condition:
                first_condition.append(condition)
            is_conditional = condition is first_condition[0]
            if is_conditional not in before:
                before[is_conditional] = _same_grid(settings, steps, logits)
            ssg = after[is_conditional] = copy.copy(before[is_conditional])
            return ssg(logits).transpose(1, 2)

        return [replaced(network, "forward", around)]

    return attached(target, ["transformer.sample", "transformer.sample_fast"], hooks)
