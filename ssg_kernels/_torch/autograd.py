"""Derivatives of the operators, in reverse and in forward mode, any number of times.

The guided operators are linear in both logits and affine in each strength. So every derivative consists of
elementwise products and of `_prior_linear`, whose derivatives are `_prior_linear` again. Where the result was
set to -inf, the derivatives are 0.

`torch.library.register_autograd` does not serve here: torch skips its Function where nothing requires grad, and then
loses a forward-mode tangent without a message.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssg_kernels._torch import schema
from ssg_kernels._torch.internals import (
    OpOverload,
    after_autograd,
    any_requires_grad,
    default_values,
    forward_mode_is_on,
    has_tangent,
    modes_of_now,
    operator_name,
    single_level_apply,
)


class Derivative(torch.autograd.Function):
    """The base of the Functions below, called as `apply(compute, *arguments of the operator)`."""

    @classmethod
    def apply(cls, *arguments: Any) -> Tensor:
        return single_level_apply(cls, arguments)

    @staticmethod
    def forward(compute: Callable[..., Tensor], *arguments: Any) -> Tensor:
        return compute(*arguments)


class GuidedLogits(Derivative):
    """guided = (1 + beta) * logits - beta * P prev_logits."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, logits, prev_logits, size, prev_size, beta, *options = inputs
        ctx.map = (size, prev_size, *options)
        needs_beta = ctx.needs_input_grad[5] or forward_mode_is_on()
        _save(ctx, (logits, prev_logits if needs_beta else None), (beta,))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        _, needs_logits, needs_prev_logits, _, _, needs_beta, *needs_options = ctx.needs_input_grad
        grad_logits = grad_prev_logits = grad_beta = None
        if grad is not None:
            (logits, prev_logits), (beta,) = _saved(ctx)
            masked = logits == -math.inf
            grad = grad.masked_fill(masked, 0)
            if needs_logits:
                grad_logits = (_accurate(grad) * (1 + beta.per_sample)).to(grad.dtype)
            if needs_prev_logits:
                grad_prev_logits = _map(ctx, grad, -beta.scale, transpose=True)
            if needs_beta:
                residual = _accurate(logits) - _map(ctx, _accurate(prev_logits))
                grad_beta = beta.grad(_accurate(grad) * residual.masked_fill(masked, 0))
        return None, grad_logits, grad_prev_logits, None, None, grad_beta, *[None] * len(needs_options)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        _, d_logits, d_prev_logits, _, _, d_beta, *_ = tangents
        (logits, prev_logits), (beta,) = _saved(ctx)
        terms = []
        if d_logits is not None:
            terms.append((1 + beta.per_sample) * _accurate(d_logits))
        if d_prev_logits is not None:
            terms.append(_map(ctx, _accurate(d_prev_logits), -beta.scale))
        if d_beta is not None:
            residual = _accurate(logits) - _map(ctx, _accurate(prev_logits))
            terms.append(_Strength(d_beta, logits).per_sample * residual)
        return _tangent(terms, logits)


class GuidedLogitsCfg(Derivative):
    """guided = (1 + beta) * m - beta * P prev_m with m = (1 + cfg) * c - cfg * u of each scale."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, logits, prev_logits, size, prev_size, beta, cfg, prev_cfg, *options = inputs
        ctx.map = (size, prev_size, *options)
        needs_strengths = any(ctx.needs_input_grad[5:8]) or forward_mode_is_on()
        _save(ctx, (logits, prev_logits if needs_strengths else None), (beta, cfg, prev_cfg))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        _, needs_logits, needs_prev_logits, _, _, *needs_strengths = ctx.needs_input_grad
        needs_beta, needs_cfg, needs_prev_cfg, *needs_options = needs_strengths
        grad_logits = grad_prev_logits = grad_beta = grad_cfg = grad_prev_cfg = None
        if grad is not None:
            (logits, prev_logits), (beta, cfg, prev_cfg) = _saved(ctx)
            masked = logits.chunk(2)[0] == -math.inf
            # Several factors follow. They stay in the accurate dtype, so that each gradient is rounded once.
            grad = _accurate(grad.masked_fill(masked, 0))
            grad_merged = grad * (1 + beta.per_sample)
            if needs_logits:
                grad_logits = _to_halves(grad_merged, cfg).to(logits.dtype)
            if needs_prev_logits:
                grad_prev_merged = _map(ctx, grad, -beta.scale, transpose=True)
                grad_prev_logits = _to_halves(grad_prev_merged, prev_cfg).to(logits.dtype)
            if needs_beta:
                residual = _merge(logits, cfg) - _map(ctx, _merge(prev_logits, prev_cfg))
                grad_beta = beta.grad(grad * residual.masked_fill(masked, 0))
            if needs_cfg:
                grad_cfg = cfg.grad(grad_merged * _difference(logits).masked_fill(masked, 0))
            if needs_prev_cfg:
                prior_difference = _map(ctx, _difference(prev_logits), -beta.scale)
                grad_prev_cfg = prev_cfg.grad(grad * prior_difference.masked_fill(masked, 0))
        grads = (None, grad_logits, grad_prev_logits, None, None, grad_beta, grad_cfg, grad_prev_cfg)
        return *grads, *[None] * len(needs_options)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        _, d_logits, d_prev_logits, _, _, d_beta, d_cfg, d_prev_cfg, *_ = tangents
        (logits, prev_logits), (beta, cfg, prev_cfg) = _saved(ctx)
        terms = []
        if d_logits is not None:
            terms.append((1 + beta.per_sample) * _merge(d_logits, cfg))
        if d_prev_logits is not None:
            terms.append(_map(ctx, _merge(d_prev_logits, prev_cfg), -beta.scale))
        if d_beta is not None:
            residual = _merge(logits, cfg) - _map(ctx, _merge(prev_logits, prev_cfg))
            terms.append(_Strength(d_beta, logits).per_sample * residual)
        if d_cfg is not None:
            terms.append((1 + beta.per_sample) * _Strength(d_cfg, logits).per_sample * _difference(logits))
        if d_prev_cfg is not None:
            prior_difference = _map(ctx, _difference(prev_logits), -beta.scale)
            terms.append(_Strength(d_prev_cfg, logits).per_sample * prior_difference)
        return _tangent(terms, logits.chunk(2)[0])


class PriorLinear(Derivative):
    """y = scale * P x, or scale * P^T x."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, x, scale, *options, ctx.transpose = inputs
        ctx.map = tuple(options)
        needs_scale = ctx.needs_input_grad[2] or forward_mode_is_on()
        _save(ctx, (x if needs_scale else None,), (scale,))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        _, needs_x, needs_scale, *needs_options = ctx.needs_input_grad
        grad_x = grad_scale = None
        if grad is not None:
            x, scale = ctx.saved_tensors
            if needs_x:
                grad_x = _map(ctx, grad, scale, transpose=not ctx.transpose)
            if needs_scale:
                unscaled = _map(ctx, _accurate(x), transpose=ctx.transpose)
                grad_scale = _Strength(scale, x).grad(_accurate(grad) * unscaled)
        return None, grad_x, grad_scale, *[None] * len(needs_options)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        _, d_x, d_scale, *_ = tangents
        x, scale = ctx.saved_tensors
        terms = []
        if d_x is not None:
            terms.append(_map(ctx, _accurate(d_x), scale, transpose=ctx.transpose))
        if d_scale is not None:
            terms.append(_map(ctx, _accurate(x), d_scale, transpose=ctx.transpose))
        return sum(terms[1:], terms[0]).to(x.dtype) if terms else None


def _save(ctx: Any, maps: tuple[Tensor | None, ...], strengths: tuple[Tensor | float, ...]) -> None:
    tensors = (*maps, *(value if isinstance(value, Tensor) else None for value in strengths))
    ctx.floats = [None if isinstance(value, Tensor) else value for value in strengths]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)
    if forward_mode_is_on():
        ctx.save_for_forward(*tensors)


def _saved(ctx: Any) -> tuple[tuple[Tensor, Tensor], tuple[_Strength, ...]]:
    logits, prev_logits, *tensors = ctx.saved_tensors
    values = (y if x is None else x for x, y in zip(tensors, ctx.floats, strict=True))
    return (logits, prev_logits), tuple(_Strength(value, logits) for value in values)


def _map(ctx: Any, x: Tensor, scale: Tensor | None = None, *, transpose: bool = False) -> Tensor:
    """scale * P x or scale * P^T x, with P the linear map of the prior from (B, L', V) to (B, L, V)."""
    scale = x.new_ones(()) if scale is None else scale
    return torch.ops.ssg._prior_linear.default(x, scale, *ctx.map, transpose)


class _Strength:
    """A float or a tensor of shape () or (B,), in the dtype that the operator computes `like` in."""

    scale: Tensor
    """The strength as a tensor of the same kind as `like`, since a DTensor combines with DTensors only."""
    per_sample: Tensor | float
    """The strength in a shape that multiplies (B, L, V)."""

    def __init__(self, value: Tensor | float, like: Tensor) -> None:
        self._value = value
        dtype = _accurate_dtype(like)
        if isinstance(value, Tensor):
            self.scale = value.to(dtype)
            self.per_sample = self.scale.reshape(-1, 1, 1)
        else:
            self.scale = like.new_full((), value, dtype=dtype)
            self.per_sample = value

    def grad(self, products: Tensor) -> Tensor:
        """The gradient of the strength from (B, L, V) products."""
        assert isinstance(self._value, Tensor)
        return products.sum(dim=(1, 2) if self._value.ndim else None).to(self._value.dtype)


def _merge(x: Tensor, cfg: _Strength) -> Tensor:
    conditional, unconditional = _accurate(x).chunk(2)
    return (1 + cfg.per_sample) * conditional - cfg.per_sample * unconditional


def _difference(x: Tensor) -> Tensor:
    conditional, unconditional = _accurate(x).chunk(2)
    return conditional - unconditional


def _to_halves(merged: Tensor, cfg: _Strength) -> Tensor:
    """The adjoint of `_merge`."""
    return torch.cat([(1 + cfg.per_sample) * merged, -cfg.per_sample * merged])


def _tangent(terms: list[Tensor], logits: Tensor) -> Tensor | None:
    if not terms:
        return None
    return sum(terms[1:], terms[0]).masked_fill(logits == -math.inf, 0).to(logits.dtype)


def _accurate(x: Tensor) -> Tensor:
    return x.to(_accurate_dtype(x))


def _accurate_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _autograd_kernel(op: OpOverload, derivative: type[Derivative]) -> Callable[..., Tensor]:
    go_on, defaults = after_autograd(op), default_values(op)

    def kernel(keyset: Any, *arguments: Any) -> Tensor:
        if not forward_mode_is_on() and not (torch.is_grad_enabled() and any_requires_grad(*arguments)):
            return go_on(keyset, *arguments)
        modes = modes_of_now()

        def compute(*arguments: Any) -> Tensor:
            with modes():
                return go_on(keyset, *arguments)

        # The dispatcher leaves out trailing arguments that equal their defaults.
        return derivative.apply(compute, *arguments, *defaults[len(arguments) :])

    return kernel


def _no_derivative_kernel(op: OpOverload) -> Callable[..., Tensor]:
    """For an operator that returns integers: they require no grad, and a tangent would be lost in them."""
    go_on = after_autograd(op)

    def kernel(keyset: Any, *arguments: Any) -> Tensor:
        if forward_mode_is_on() and any(map(has_tangent, arguments)):
            raise RuntimeError(
                f"{operator_name(op)} is not differentiable, but one of its arguments has a forward-mode tangent"
            )
        return go_on(keyset, *arguments)

    return kernel


def _register() -> None:
    derivatives = {"guided_logits": GuidedLogits, "guided_logits_cfg": GuidedLogitsCfg}
    for overload in schema.OVERLOADS:
        if not overload.is_out:
            kernel = _autograd_kernel(overload.op, derivatives[overload.operator])
            schema.implement(overload.qualname, kernel, "Autograd", with_keyset=True)
    prior_linear = _autograd_kernel(torch.ops.ssg._prior_linear.default, PriorLinear)
    schema.implement(schema.PRIOR_LINEAR, prior_linear, "Autograd", with_keyset=True)
    tempered = torch.ops.ssg._sample_tempered
    for qualname, op in (
        (schema.SAMPLE, torch.ops.ssg.sample.default),
        (schema.SAMPLE_TEMPERED, tempered.default),
        (schema.SAMPLE_TEMPERED_FLOAT, tempered.float),
    ):
        schema.implement(qualname, _no_derivative_kernel(op), "Autograd", with_keyset=True)


_register()
