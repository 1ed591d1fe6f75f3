"""The only file that uses private API of torch. A new version of torch that breaks the package breaks it here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    _after_ADInplaceOrView_keyset,
    _after_autograd_keyset,
    _any_requires_grad,
    _AutoDispatchBelowAutograd,
)
from torch._functorch.utils import enable_single_level_autograd_function, unwrap_dead_wrappers
from torch._ops import OpOverload, OpOverloadPacket
from torch.autograd import forward_ad

__all__ = [
    "OpOverload",
    "OpOverloadPacket",
    "after_autograd",
    "after_views",
    "any_requires_grad",
    "below_autograd",
    "default_values",
    "forward_mode_is_on",
    "has_tangent",
    "modes_of_now",
    "operator_name",
    "single_level_apply",
    "unwrapped",
]

below_autograd = _AutoDispatchBelowAutograd
"""A context in which the dispatcher skips the autograd keys."""


def after_autograd(op: OpOverload) -> Callable[..., Tensor]:
    """Called with a keyset and the arguments, it calls what the dispatcher would call after the autograd keys."""
    redispatch = op._handle.redispatch_boxed

    def call(keyset: Any, *arguments: Any, **out: Tensor) -> Tensor:
        return redispatch(keyset & _after_autograd_keyset, *arguments, **out)

    return call


def after_views(op: OpOverload) -> Callable[..., Tensor]:
    """The same, after the autograd keys and ADInplaceOrView."""
    redispatch = op._handle.redispatch_boxed

    def call(keyset: Any, *arguments: Any, **out: Tensor) -> Tensor:
        return redispatch(keyset & _after_ADInplaceOrView_keyset, *arguments, **out)

    return call


def any_requires_grad(*arguments: Any) -> bool:
    """Whether one of the tensors among the arguments requires grad."""
    return _any_requires_grad(*arguments)


def forward_mode_is_on() -> bool:
    """Whether a forward-mode level is active, so that an argument may have a tangent."""
    return forward_ad._current_level >= 0


def has_tangent(x: object) -> bool:
    """Whether `x` is a tensor with a forward-mode tangent."""
    return isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None


def single_level_apply(function: type[torch.autograd.Function], arguments: tuple[Any, ...]) -> Tensor:
    """`function.apply`, at the functorch level that the arguments belong to.

    `Function.apply` itself would begin again at the outermost functorch transform. An autograd kernel runs at one
    level, with the tensors of that level.
    """
    with enable_single_level_autograd_function():
        return super(torch.autograd.Function, function).apply(*unwrap_dead_wrappers(arguments))  # type: ignore[misc]


def modes_of_now() -> Callable[[], AbstractContextManager[None]]:
    """Remembers which differentiation modes are on. The context that it returns turns them on, below the autograd keys.

    An autograd Function turns both modes off in its forward, but the functorch levels below still need them.
    """
    grad = torch.is_grad_enabled()
    forward = torch._C._is_fwd_grad_enabled()

    @contextmanager
    def context() -> Iterator[None]:
        with torch.set_grad_enabled(grad), forward_ad._set_fwd_grad_enabled(forward), below_autograd():
            yield

    return context


def default_values(op: OpOverload) -> list[Any]:
    """The default of each argument of the operator, in order; None where there is no default."""
    return [argument.default_value for argument in op._schema.arguments]


def operator_name(op: OpOverload) -> str:
    """The operator's name without its namespace and overload."""
    return op._opname


def unwrapped(op: OpOverload) -> Any:
    """The callable inside the overload, which is faster to call."""
    return op._op
