"""The only file that uses private API of torch. A new version of torch that breaks the package breaks it here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    _after_ADInplaceOrView_keyset,
    _after_autograd_keyset,
    _any_requires_grad,
    _are_functorch_transforms_active,
    _AutoDispatchBelowAutograd,
)
from torch._functorch.utils import enable_single_level_autograd_function, unwrap_dead_wrappers
from torch._ops import OpOverload, OpOverloadPacket
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from ssg_kernels._call import Options

__all__ = [
    "AFTER_AUTOGRAD",
    "AFTER_VIEWS",
    "OpOverload",
    "OpOverloadPacket",
    "SingleLevelFunction",
    "any_requires_grad",
    "below_autograd",
    "default_values",
    "has_tangent",
    "is_constant",
    "live",
    "may_have_tangents",
    "missing",
    "operator_name",
    "redispatch",
    "unwrapped",
    "without_tangent",
]

below_autograd = _AutoDispatchBelowAutograd
"""A context in which the dispatcher skips the autograd keys."""


AFTER_AUTOGRAD: Any = _after_autograd_keyset
"""A keyset and this one hold the keys that come after the autograd keys."""

AFTER_VIEWS: Any = _after_ADInplaceOrView_keyset
"""Likewise, the keys that come after ADInplaceOrView too."""

any_requires_grad: Callable[..., bool] = _any_requires_grad
"""Whether one of the tensors among the arguments requires grad."""


def redispatch(op: OpOverload) -> Callable[..., Any]:
    """Called with a keyset and the arguments, it calls the kernel of the operator for those keys."""
    call: Callable[..., Any] = op._handle.redispatch_boxed
    return call


def may_have_tangents() -> bool:
    """Whether tensors can have forward-mode tangents now.

    `forward_ad` counts its levels in Python. A graph that torch.compile captured opens a level without that count, but
    only inside a torch.func transform.
    """
    return forward_ad._current_level >= 0 or _are_functorch_transforms_active()


def without_tangent(x: Any) -> tuple[Any, Tensor | None]:
    """`x` without its forward-mode tangent, and the tangent; None where `x` has none or is no tensor."""
    # Level 0 is the only one there is. By default `unpack_dual` asks the count in Python.
    return forward_ad.unpack_dual(x, level=0) if isinstance(x, Tensor) else (x, None)


def has_tangent(x: object) -> bool:
    """Whether `x` is a tensor with a forward-mode tangent."""
    return without_tangent(x)[1] is not None


class SingleLevelFunction(_SingleLevelFunction):
    """An autograd Function for kernels under the autograd keys.

    `torch.autograd.Function.apply` would begin again at the outermost torch.func transform. A kernel runs at one level,
    with the tensors of that level.
    """

    _compiled_autograd_key = staticmethod(torch.autograd.Function._compiled_autograd_key)

    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        with enable_single_level_autograd_function():
            return super().apply(*arguments)  # type: ignore[misc]


def live(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments without the wrappers that torch.func transforms leave behind after their end."""
    return unwrap_dead_wrappers(arguments)


def is_constant(number: float) -> bool:
    """Whether compiled code is bound to this value of the number; False where the number is an input of its graph."""
    # Only compilers ask, and the import takes long.
    from torch.fx.experimental.symbolic_shapes import has_static_value

    return has_static_value(number)


def default_values(op: OpOverload) -> list[Any]:
    """The default of each argument of the operator, in order; None where there is no default."""
    return [argument.default_value for argument in op._schema.arguments]


def operator_name(op: OpOverload) -> str:
    """The operator's name without its namespace and overload."""
    return op._opname


def unwrapped(op: OpOverload) -> Any:
    """The callable inside the overload, which is faster to call."""
    return op._op


def missing() -> list[str]:
    """What the operators cannot do with this version of torch, each with torch's reason."""

    def prior(x: Tensor) -> Tensor:
        sizes, transpose = ((1, 1), (1, 1)), False
        return torch.ops.ssg._prior_linear.default(x, x.new_empty(()), *sizes, *Options(), transpose)

    def tangent(x: Tensor) -> Tensor:
        return torch.func.jvp(prior, (x,), (x,))[1]

    def sharding() -> None:
        if torch.distributed.is_available():
            from torch.distributed.tensor.experimental import register_sharding  # noqa: F401

    # Meta tensors: every step is taken, and nothing is computed.
    x = torch.empty(1, 1, 1, device="meta")
    uses: dict[str, Callable[[], object]] = {
        "torch.func.grad": lambda: torch.func.grad(lambda x: prior(x).sum())(x),
        "torch.func.jvp": lambda: tangent(x),
        "torch.func.jvp of torch.func.jvp": lambda: torch.func.jvp(tangent, (x,), (x,)),
        "torch.func.vmap": lambda: torch.func.vmap(prior)(x[None]),
        "sharding of DTensor": sharding,
    }
    found = []
    for name, use in uses.items():
        try:
            use()
        except Exception as error:  # whatever it is, torch lacks something
            found.append(f"{name}: {(str(error) or type(error).__name__).splitlines()[0]}")
    return found
