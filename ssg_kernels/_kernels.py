"""The operators where no compiled kernel serves, and where another backend is asked for: Triton or the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssg_kernels import _backends, _checks, _schema, reference
from ssg_kernels._checks import Strength


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
    return python_guided_logits(
        logits, prev_logits, size, prev_size, beta, prior, interpolation, rescale, out
    )


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
    return python_guided_logits_cfg(
        logits, prev_logits, size, prev_size, *strengths, prior, interpolation, rescale, out
    )


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
    return python_prior_linear(x, scale, size, prev_size, prior, interpolation, rescale, transpose)


def sample(logits: Tensor, uniform: Tensor, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    _checks.sample("sample", logits, uniform, 1.0, top_k, top_p)
    return reference.refuse_empty_rows(python_sample(logits, uniform, 1.0, top_k, top_p), logits, 1.0)


def sample_tempered(
    logits: Tensor, uniform: Tensor, scale: Strength, top_k: int = 0, top_p: float = 0.0
) -> Tensor:
    _checks.sample("_sample_tempered", logits, uniform, scale, top_k, top_p)
    return reference.refuse_empty_rows(python_sample(logits, uniform, scale, top_k, top_p), logits, scale)


# What follows takes checked arguments: the compiled kernels hand over to it.


def python_guided_logits(*arguments: object) -> Tensor:
    """`guided_logits` of its arguments in order, the last one `out` or None."""
    *inputs, out = arguments
    if _backends.uses_triton(inputs[0]):  # type: ignore[arg-type]
        return _backends.triton().guided_logits(*_with_floats(*inputs), out=out)  # type: ignore[arg-type]
    return _into(out, reference.guided_logits(*inputs))  # type: ignore[arg-type]


def python_guided_logits_cfg(*arguments: object) -> Tensor:
    """`guided_logits_cfg` of its arguments in order, the last one `out` or None."""
    *inputs, out = arguments
    if _backends.uses_triton(inputs[0]):  # type: ignore[arg-type]
        return _backends.triton().guided_logits_cfg(*_with_floats(*inputs), out=out)  # type: ignore[arg-type]
    return _into(out, reference.guided_logits_cfg(*inputs))  # type: ignore[arg-type]


def python_prior_linear(x: Tensor, *arguments: object) -> Tensor:
    """`_prior_linear` of its arguments in order."""
    if _backends.uses_triton(x):
        return _backends.triton().prior_linear(x, *arguments)
    return reference_prior_linear(x, *arguments)  # type: ignore[arg-type]


def python_sample(
    logits: Tensor, uniform: Tensor, scale: Strength, top_k: int = 0, top_p: float = 0.0
) -> Tensor:
    """`_sample_tempered` of its arguments in order, with -1 for a row without an answer on every device."""
    if _backends.uses_triton(logits):
        return _backends.triton().sample(*_with_floats(logits, uniform, scale), top_k, top_p)
    return reference.draw(logits, uniform, scale, top_k, top_p)


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


def _with_floats(logits: Tensor, *others: object) -> tuple[object, ...]:
    """The arguments, with the 0-d tensors on the CPU in which the compiled kernels hand over floats read again."""
    if logits.device.type == "cpu":
        return (logits, *others)
    is_float = [isinstance(x, Tensor) and x.ndim == 0 and x.device.type == "cpu" for x in others]
    return (logits, *(x.item() if found else x for x, found in zip(others, is_float, strict=True)))  # type: ignore[attr-defined]


def _into(out: Tensor | None, result: Tensor) -> Tensor:
    return result.contiguous() if out is None else out.copy_(result)


def _register() -> None:
    kernels: dict[str, Callable[..., Tensor]] = {
        "guided_logits": guided_logits,
        "guided_logits_cfg": guided_logits_cfg,
    }
    for overload in _schema.OVERLOADS:
        _schema.implement(overload.qualname, kernels[overload.operator], "CompositeExplicitAutograd")
    _schema.implement(_schema.PRIOR_LINEAR, prior_linear, "CompositeExplicitAutograd")
    _schema.implement(_schema.SAMPLE, sample, "CompositeExplicitAutograd")
    for qualname in (_schema.SAMPLE_TEMPERED, _schema.SAMPLE_TEMPERED_FLOAT):
        _schema.implement(qualname, sample_tempered, "CompositeExplicitAutograd")
    python: tuple[Callable[..., object], ...] = (
        python_guided_logits,
        python_guided_logits_cfg,
        python_prior_linear,
        python_sample,
        _backends.problem,
    )
    for qualname, kernel in zip(_schema.PYTHON, python, strict=True):
        _schema.implement(qualname, kernel, "CompositeExplicitAutograd")


_register()
