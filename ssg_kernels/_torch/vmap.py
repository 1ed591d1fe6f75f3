"""vmap over any of the tensors. The mapped dimension becomes part of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssg_kernels import _checks
from ssg_kernels._call import GuidedCall, SampleCall
from ssg_kernels._torch import library, schema


def _guided_rule(overload: schema.Overload) -> Callable[..., tuple[Tensor, int]]:
    strengths_end = 4 + len(overload.strengths)

    def rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> tuple[Tensor, int]:
        one = GuidedCall.of(
            overload.operator, *(_first(x, dim) for x, dim in zip(arguments, in_dims, strict=True))
        )
        _checks.guided(one)
        count, batch = info.batch_size, one.shape[0]
        folded = list(arguments)
        for i in (0, 1):
            folded[i] = _fold(arguments[i], in_dims[i], count, one.halves)
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


def _sample_rule(qualname: str, operator: str) -> Callable[..., tuple[Tensor, int]]:
    op = schema.op_of(qualname)

    def rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> tuple[Tensor, int]:
        one = SampleCall.of(operator, *(_first(x, dim) for x, dim in zip(arguments, in_dims, strict=True)))
        _checks.sample(*one)
        count, batch = info.batch_size, one.logits.shape[0]
        folded: list[Any] = [_fold(arguments[i], in_dims[i], count) for i in (0, 1)]
        folded += [
            _fold_strength(x, dim, count, batch) for x, dim in zip(arguments[2:], in_dims[2:], strict=True)
        ]
        return op(*folded).unflatten(0, (count, batch)), 0

    return rule


def _first(x: Any, dim: Any) -> Any:
    """The first of the mapped values, which is what a call without vmap would get."""
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
    for overload in schema.OVERLOADS:
        if not overload.is_out:
            torch.library.register_vmap(overload.qualname, _guided_rule(overload), lib=library.LIBRARY)
    torch.library.register_vmap(schema.PRIOR_LINEAR, _prior_linear_rule, lib=library.LIBRARY)
    for qualname, operator in schema.SAMPLES.items():
        torch.library.register_vmap(qualname, _sample_rule(qualname, operator), lib=library.LIBRARY)


_register()
