"""What the operators return while a compiler traces them: a new contiguous tensor, after the same checks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssg_kernels import _checks
from ssg_kernels._call import GuidedCall, Options, Strength
from ssg_kernels._torch import library, schema


def guided(operator: str, *arguments: object, out: Tensor | None = None) -> Tensor:
    call = GuidedCall.of(operator, *arguments, out=out)
    _checks.guided(call)
    return call.logits.new_empty(call.shape) if out is None else out


def prior_linear(
    x: Tensor, scale: Tensor, size: Sequence[int], prev_size: Sequence[int], *others: Any
) -> Tensor:
    *given, transpose = others
    options = Options(*given)
    _checks.prior_linear(x, scale, size, prev_size, options, transpose)
    h, w = prev_size if transpose else size
    return x.new_empty(x.shape[0], h * w, x.shape[2])


def sample(logits: Tensor, uniform: Tensor, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    return _sampled("sample", logits, uniform, 1.0, top_k, top_p)


def sample_tempered(
    logits: Tensor, uniform: Tensor, scale: Strength, top_k: int | Tensor = 0, top_p: Strength = 0.0
) -> Tensor:
    return _sampled("_sample_tempered", logits, uniform, scale, top_k, top_p)


def _sampled(
    name: str, logits: Tensor, uniform: Tensor, scale: Strength, top_k: int | Tensor, top_p: Strength
) -> Tensor:
    _checks.sample(name, logits, uniform, scale, top_k, top_p)
    return logits.new_empty(logits.shape[:2], dtype=torch.int64)


def _register() -> None:
    fakes: dict[str, Callable[..., Tensor]] = {
        **{o.qualname: functools.partial(guided, o.operator) for o in schema.OVERLOADS},
        schema.PRIOR_LINEAR: prior_linear,
        schema.SAMPLE: sample,
        **dict.fromkeys(schema.TEMPERED, sample_tempered),
    }
    for qualname, fake in fakes.items():
        torch.library.register_fake(qualname, fake, lib=library.LIBRARY)


_register()
