"""What the operators return, for tracing: a new contiguous tensor, after the same checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssg_kernels import _checks, _schema
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
    return logits.new_empty(logits.shape) if out is None else out


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
    batch, tokens, vocabulary = logits.shape
    return logits.new_empty(batch // 2, tokens, vocabulary) if out is None else out


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
    h, w = prev_size if transpose else size
    return x.new_empty(x.shape[0], h * w, x.shape[2])


def sample(logits: Tensor, uniform: Tensor, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    return _sampled("sample", logits, uniform, 1.0, top_k, top_p)


def sample_tempered(
    logits: Tensor, uniform: Tensor, scale: Strength, top_k: int = 0, top_p: float = 0.0
) -> Tensor:
    return _sampled("_sample_tempered", logits, uniform, scale, top_k, top_p)


def _sampled(name: str, logits: Tensor, uniform: Tensor, scale: Strength, top_k: int, top_p: float) -> Tensor:
    _checks.sample(name, logits, uniform, scale, top_k, top_p)
    return logits.new_empty(logits.shape[:2], dtype=torch.int64)


def _register() -> None:
    fakes: dict[str, Callable[..., Tensor]] = {
        "guided_logits": guided_logits,
        "guided_logits_cfg": guided_logits_cfg,
    }
    for overload in _schema.OVERLOADS:
        torch.library.register_fake(overload.qualname, fakes[overload.operator], lib=_schema.LIBRARY)
    torch.library.register_fake(_schema.PRIOR_LINEAR, prior_linear, lib=_schema.LIBRARY)
    torch.library.register_fake(_schema.SAMPLE, sample, lib=_schema.LIBRARY)
    for qualname in (_schema.SAMPLE_TEMPERED, _schema.SAMPLE_TEMPERED_FLOAT):
        torch.library.register_fake(qualname, sample_tempered, lib=_schema.LIBRARY)


_register()
