"""The overloads that write into `out`: version counters for autograd, no derivatives, and a functional form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ssg_kernels._torch import library, schema
from ssg_kernels._torch.internals import (
    AFTER_VIEWS,
    OpOverload,
    any_requires_grad,
    below_autograd,
    has_tangent,
    may_have_tangents,
    operator_name,
    redispatch,
)


def _autograd_kernel(op: OpOverload) -> Callable[..., Tensor]:
    write = redispatch(op)

    def kernel(keyset: Any, *arguments: Any, out: Tensor) -> Tensor:
        if torch.is_grad_enabled() and any_requires_grad(*arguments, out):
            raise RuntimeError(_refusal(op, "but one of the arguments requires grad"))
        if may_have_tangents() and any(map(has_tangent, (*arguments, out))):
            raise RuntimeError(_refusal(op, "but one of the arguments has a forward-mode tangent"))
        with below_autograd():
            write(keyset & AFTER_VIEWS, *arguments, out=out)
        increment_version(out)
        return out

    return kernel


def _inference_kernel(op: OpOverload) -> Callable[..., Tensor]:
    """Runs in inference mode only, and there only for tensors that were made outside of it."""
    write = redispatch(op)

    def kernel(keyset: Any, *arguments: Any, out: Tensor) -> Tensor:
        write(keyset & AFTER_VIEWS, *arguments, out=out)
        increment_version(out)
        return out

    return kernel


def functional_kernel(op: OpOverload) -> Callable[..., Tensor]:
    """The operator, then a copy. Compilers remove the copy where `out` is no input of the graph."""

    def kernel(*arguments: Any, out: Tensor) -> Tensor:
        return out.copy_(op(*arguments))

    return kernel


def _vmap_kernel(op: OpOverload) -> Callable[..., Tensor]:
    def kernel(*arguments: Any, out: Tensor) -> Tensor:
        name = operator_name(op)
        raise RuntimeError(f"{name}(): functions with out=... arguments don't support vmap")

    return kernel


def _refusal(op: OpOverload, reason: str) -> str:
    name = operator_name(op)
    return f"{name}(): functions with out=... arguments don't support automatic differentiation, {reason}."


def _register() -> None:
    for overload in schema.OVERLOADS:
        if overload.is_out:
            op, functional = overload.op, overload.functional.op
            library.implement(overload.qualname, _autograd_kernel(op), "Autograd", with_keyset=True)
            library.implement(overload.qualname, _inference_kernel(op), "ADInplaceOrView", with_keyset=True)
            library.implement(overload.qualname, functional_kernel(functional), "Functionalize")
            library.implement(overload.qualname, _vmap_kernel(op), "FuncTorchBatched")


_register()
