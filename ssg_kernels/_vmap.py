"""vmap over any of the tensors: the mapped dimension is folded into the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from ssg_kernels import _checks, _schema

_DEFAULTS = ["dse", "bilinear", False]


def _guided_rule(overload: _schema.Overload) -> Callable[..., tuple[Tensor, int]]:
    check = getattr(_checks, overload.operator)
    halves = 2 if overload.operator == "guided_logits_cfg" else 1
    strengths_end = 4 + len(overload.strengths)

    def rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> tuple[Tensor, int]:
        one = [_first(x, dim) for x, dim in zip(arguments, in_dims, strict=True)]
        # The dispatcher leaves out trailing arguments that equal their defaults.
        options = one[strengths_end:] + _DEFAULTS[len(arguments) - strengths_end :]
        check(*one[:strengths_end], *options[:2])
        count, batch = info.batch_size, one[0].shape[0] // halves
        folded = list(arguments)
        for i in (0, 1):
            folded[i] = _fold(arguments[i], in_dims[i], count, halves)
        for i in range(4, strengths_end):
            folded[i] = _fold_strength(arguments[i], in_dims[i], count, batch)
        return overload.op(*folded).unflatten(0, (count, batch)), 0

    return rule


def _prior_linear_rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> tuple[Tensor, int]:
    x, scale, *options = arguments
    count, batch = info.batch_size, _first(x, in_dims[0]).shape[0]
    result = torch.ops.ssg._prior_linear.default(
        _fold(x, in_dims[0], count), _fold_strength(scale, in_dims[1], count, batch), *options
    )
    return result.unflatten(0, (count, batch)), 0


def _sample_rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> tuple[Tensor, int]:
    return _sampled("sample", torch.ops.ssg.sample.default, 2, info, in_dims, arguments)


def _sample_tempered_rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> tuple[Tensor, int]:
    packet = torch.ops.ssg._sample_tempered
    op = packet.default if isinstance(arguments[2], Tensor) else packet.float
    return _sampled("_sample_tempered", op, 3, info, in_dims, arguments)


def _sampled(
    name: str, op: OpOverload, tensors: int, info: Any, in_dims: Sequence[Any], arguments: Sequence[Any]
) -> tuple[Tensor, int]:
    logits, uniform, *scale = (_first(x, dim) for x, dim in zip(arguments[:tensors], in_dims, strict=False))
    filters: list[Any] = [*arguments[tensors:], *(0, 0.0)[len(arguments) - tensors :]]
    _checks.sample(name, logits, uniform, scale[0] if scale else 1.0, *filters)
    count, batch = info.batch_size, logits.shape[0]
    folded: list[Any] = [_fold(arguments[i], in_dims[i], count) for i in (0, 1)]
    folded += [_fold_strength(x, in_dims[2], count, batch) for x in arguments[2:tensors]]
    return op(*folded, *filters).unflatten(0, (count, batch)), 0


def _first(x: Any, dim: Any) -> Any:
    """The first of the mapped values: what one call would have been given."""
    if not isinstance(x, Tensor) or dim is None:
        return x
    x = x.movedim(dim, 0)
    return x[0] if len(x) else x.new_empty(x.shape[1:])


def _fold(x: Tensor, dim: int | None, count: int, halves: int = 1) -> Tensor:
    """(halves * B, ...) of each of `count` calls to (halves * count * B, ...)."""
    x = x.expand(count, *x.shape) if dim is None else x.movedim(dim, 0)
    # The halves stay outermost.
    return x.unflatten(1, (halves, -1)).transpose(0, 1).flatten(0, 2)


def _fold_strength(value: Tensor | float, dim: int | None, count: int, batch: int) -> Tensor | float:
    """() or (B,) of each of `count` calls to () or (count * B,)."""
    if not isinstance(value, Tensor) or (dim is None and value.ndim == 0):
        return value
    value = value.expand(count, *value.shape) if dim is None else value.movedim(dim, 0)
    return (value[:, None] if value.ndim == 1 else value).expand(count, batch).flatten()


def _register() -> None:
    for overload in _schema.OVERLOADS:
        if not overload.is_out:
            torch.library.register_vmap(overload.qualname, _guided_rule(overload), lib=_schema.LIBRARY)
    torch.library.register_vmap(_schema.PRIOR_LINEAR, _prior_linear_rule, lib=_schema.LIBRARY)
    torch.library.register_vmap(_schema.SAMPLE, _sample_rule, lib=_schema.LIBRARY)
    for qualname in (_schema.SAMPLE_TEMPERED, _schema.SAMPLE_TEMPERED_FLOAT):
        torch.library.register_vmap(qualname, _sample_tempered_rule, lib=_schema.LIBRARY)


_register()
