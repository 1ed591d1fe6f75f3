"""The operators computed by the reference: where no compiled kernel serves, and where it is asked for."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssg_kernels import _checks, _extension, _schema, reference
from ssg_kernels._checks import Strength

BACKENDS = ("reference", "cpu", "triton", "cuda")


def guided_logits(
    logits: Tensor,
    prev_logits: Tensor,
    size: Sequence[int],
    prev_size: Sequence[int],
    beta: Strength,
    prior: str = "dse",
    interpolation: str = "bilinear",
    rescale: bool = False,
    *,
    out: Tensor | None = None,
) -> Tensor:
    _checks.guided_logits(logits, prev_logits, size, prev_size, beta, prior, interpolation, out=out)
    if out is not None:
        _checks.output_memory("guided_logits", out, logits, prev_logits)
    _require_reference(logits.device)
    result = reference_guided_logits(
        logits, prev_logits, size, prev_size, beta, prior, interpolation, rescale
    )
    return result if out is None else out.copy_(result)


def guided_logits_cfg(
    logits: Tensor,
    prev_logits: Tensor,
    size: Sequence[int],
    prev_size: Sequence[int],
    beta: Strength,
    cfg: Strength,
    prev_cfg: Strength,
    prior: str = "dse",
    interpolation: str = "bilinear",
    rescale: bool = False,
    *,
    out: Tensor | None = None,
) -> Tensor:
    strengths = (beta, cfg, prev_cfg)
    _checks.guided_logits_cfg(logits, prev_logits, size, prev_size, *strengths, prior, interpolation, out=out)
    if out is not None:
        _checks.output_memory("guided_logits_cfg", out, logits, prev_logits)
    _require_reference(logits.device)
    result = reference_guided_logits_cfg(
        logits, prev_logits, size, prev_size, *strengths, prior, interpolation, rescale
    )
    return result if out is None else out.copy_(result)


def prior_linear(
    x: Tensor,
    scale: Tensor,
    size: Sequence[int],
    prev_size: Sequence[int],
    prior: str,
    interpolation: str,
    rescale: bool,
    transpose: bool,
) -> Tensor:
    _checks.prior_linear(x, scale, size, prev_size, prior, interpolation, transpose)
    _require_reference(x.device)
    return reference_prior_linear(x, scale, size, prev_size, prior, interpolation, rescale, transpose)


def reference_guided_logits(*args: object) -> Tensor:
    return reference.guided_logits(*args).contiguous()  # type: ignore[arg-type]


def reference_guided_logits_cfg(*args: object) -> Tensor:
    return reference.guided_logits_cfg(*args).contiguous()  # type: ignore[arg-type]


def reference_prior_linear(
    x: Tensor,
    scale: Tensor,
    size: Sequence[int],
    prev_size: Sequence[int],
    prior: str,
    interpolation: str,
    rescale: bool,
    transpose: bool,
) -> Tensor:
    # The prior of the unit vectors, one per vocabulary column, is its matrix.
    coarse_tokens = prev_size[0] * prev_size[1]
    accurate = torch.float64 if x.dtype == torch.float64 else torch.float32
    units = torch.eye(coarse_tokens, dtype=accurate, device=x.device)[None]
    matrix = reference.dse_prior(units, size, prev_size, prior, interpolation, rescale)[0]
    result = (matrix.mT if transpose else matrix) @ x.to(accurate)
    return (scale.to(accurate).reshape(-1, 1, 1) * result).to(x.dtype).contiguous()


def _require_reference(device: torch.device) -> None:
    """Raises ValueError where SSG_KERNELS_BACKEND asks for a backend that cannot serve `device`."""
    backend = os.environ.get("SSG_KERNELS_BACKEND") or None
    if backend == "reference":
        return
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"SSG_KERNELS_BACKEND must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend is not None:
        reason = f": {_extension.error}" if device.type == backend == "cpu" else ""
        raise ValueError(f"SSG_KERNELS_BACKEND={backend} cannot serve tensors on {device}{reason}")
    if device.type != "cpu":
        _warn_of_the_reference(device.type)


@functools.cache
def _warn_of_the_reference(device_type: str) -> None:
    warnings.warn(
        f"ssg_kernels has no kernel for {device_type} tensors: the reference computes them", stacklevel=4
    )


def _register() -> None:
    kernels: dict[str, Callable[..., Tensor]] = {
        "guided_logits": guided_logits,
        "guided_logits_cfg": guided_logits_cfg,
    }
    for overload in _schema.OVERLOADS:
        _schema.implement(overload.qualname, kernels[overload.operator], "CompositeExplicitAutograd")
    _schema.implement(_schema.PRIOR_LINEAR, prior_linear, "CompositeExplicitAutograd")
    references: tuple[Callable[..., Tensor], ...] = (
        reference_guided_logits,
        reference_guided_logits_cfg,
        reference_prior_linear,
    )
    for qualname, kernel in zip(_schema.REFERENCES, references, strict=True):
        _schema.implement(qualname, kernel, "CompositeExplicitAutograd")


_register()
