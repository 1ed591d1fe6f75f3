"""The overloads that write into `out`: versions for autograd, no derivatives, and the functional form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _after_ADInplaceOrView_keyset, _any_requires_grad, _AutoDispatchBelowAutograd
from torch._ops import OpOverload
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version

from ssg_kernels import _schema


def _autograd_kernel(op: OpOverload) -> Callable[..., Tensor]:
    def kernel(keyset: Any, *arguments: Any, out: Tensor) -> Tensor:
        if torch.is_grad_enabled() and _any_requires_grad(*arguments, out):
            raise RuntimeError(_refusal(op, "but one of the arguments requires grad"))
        if forward_ad._current_level >= 0 and any(map(_has_tangent, (*arguments, out))):
            raise RuntimeError(_refusal(op, "but one of the arguments has a forward-mode tangent"))
        with _AutoDispatchBelowAutograd():
            op._handle.redispatch_boxed(keyset & _after_ADInplaceOrView_keyset, *arguments, out=out)
        increment_version(out)
        return out

    return kernel


def _inference_kernel(op: OpOverload) -> Callable[..., Tensor]:
    """Entered in inference mode only, and there only for tensors made outside of it."""

    def kernel(keyset: Any, *arguments: Any, out: Tensor) -> Tensor:
        op._handle.redispatch_boxed(keyset & _after_ADInplaceOrView_keyset, *arguments, out=out)
        increment_version(out)
        return out

    return kernel


def _functional_kernel(op: OpOverload) -> Callable[..., Tensor]:
    """For compilers: the operator, then a copy, which they remove where `out` is no input of the graph."""

    def kernel(*arguments: Any, out: Tensor) -> Tensor:
        return out.copy_(op(*arguments))

    return kernel


def _vmap_kernel(op: OpOverload) -> Callable[..., Tensor]:
    def kernel(*arguments: Any, out: Tensor) -> Tensor:
        raise RuntimeError(f"{op._opname}(): functions with out=... arguments don't support vmap")

    return kernel


def _has_tangent(x: object) -> bool:
    return isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None


def _refusal(op: OpOverload, reason: str) -> str:
    return (
        f"{op._opname}(): functions with out=... arguments don't support automatic differentiation, {reason}."
    )


def _register() -> None:
    for overload in _schema.OVERLOADS:
        if overload.is_out:
            op, functional = overload.op, overload.functional.op
            _schema.implement(overload.qualname, _autograd_kernel(op), "Autograd", with_keyset=True)
            _schema.implement(overload.qualname, _inference_kernel(op), "ADInplaceOrView", with_keyset=True)
            _schema.implement(overload.qualname, _functional_kernel(functional), "Functionalize")
            _schema.implement(overload.qualname, _vmap_kernel(op), "FuncTorchBatched")


_register()
