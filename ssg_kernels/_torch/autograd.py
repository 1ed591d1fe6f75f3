"""Derivatives of the operators, in reverse and in forward mode, any number of times.

The guided operators are linear in both logits and affine in each strength. So every derivative consists of
elementwise products and of `_prior_linear`, whose derivatives are `_prior_linear` again. Where the result was
set to -inf, the derivatives are 0.

`torch.library.register_autograd` does not serve here: it has no forward mode (a tangent is lost without a message), and
`torch.func.grad` refuses its Functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssg_kernels._torch import library, schema
from ssg_kernels._torch.internals import (
    AFTER_AUTOGRAD,
    OpOverload,
    SingleLevelFunction,
    any_requires_grad,
    below_autograd,
    default_values,
    has_tangent,
    live,
    may_have_tangents,
    operator_name,
    redispatch,
    without_tangent,
)


class Outcome(NamedTuple):
    """What a call computed before its Function records it: the result, and its tangent if an argument has one."""

    result: Tensor
    tangent: Tensor | None


class Derivative(SingleLevelFunction):
    """The base of the Functions below, called with an Outcome and the arguments of the operator.

    The outcome is computed beforehand, because a Function turns both differentiation modes off in its own methods,
    and the levels of torch.func further out still need them.
    """

    @staticmethod
    def forward(outcome: Outcome, *arguments: Any) -> Tensor:
        return outcome.result

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Tensor | None:
        return ctx.__dict__.pop("tangent")

    @staticmethod
    def tangent(primals: Sequence[Any], tangents: Sequence[Tensor | None]) -> Tensor:
        """The tangent of the result, where one of the arguments has one."""
        raise NotImplementedError


class GuidedLogits(Derivative):
    """guided = (1 + beta) * logits - beta * P prev_logits."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        outcome, logits, prev_logits, size, prev_size, beta, *options = inputs
        ctx.prior = Prior(size, prev_size, *options)
        _save(ctx, outcome, (logits, prev_logits if ctx.needs_input_grad[5] else None), (beta,))

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
                grad_prev_logits = ctx.prior(grad, -beta.scale, transpose=True)
            if needs_beta:
                residual = _accurate(logits) - ctx.prior(_accurate(prev_logits))
                grad_beta = beta.grad(_accurate(grad) * residual.masked_fill(masked, 0))
        return None, grad_logits, grad_prev_logits, None, None, grad_beta, *[None] * len(needs_options)

    @staticmethod
    def tangent(primals: Sequence[Any], tangents: Sequence[Tensor | None]) -> Tensor:
        logits, prev_logits, size, prev_size, beta, *options = primals
        d_logits, d_prev_logits, _, _, d_beta, *_ = tangents
        prior, beta = Prior(size, prev_size, *options), Strength(beta, logits)
        masked = logits == -math.inf
        terms = []
        if d_logits is not None:
            terms.append((1 + beta.per_sample) * _accurate(d_logits))
        if d_prev_logits is not None:
            terms.append(prior(_accurate(d_prev_logits), -beta.scale))
        if d_beta is not None:
            residual = _accurate(logits) - prior(_accurate(prev_logits))
            terms.append(Strength(d_beta, logits).per_sample * residual.masked_fill(masked, 0))
        return sum(terms[1:], terms[0]).masked_fill(masked, 0).to(logits.dtype)


class GuidedLogitsCfg(Derivative):
    """guided = (1 + beta) * m - beta * P prev_m with m = (1 + cfg) * c - cfg * u of each scale."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        outcome, logits, prev_logits, size, prev_size, beta, cfg, prev_cfg, *options = inputs
        ctx.prior = Prior(size, prev_size, *options)
        needs_strengths = any(ctx.needs_input_grad[5:8])
        _save(ctx, outcome, (logits, prev_logits if needs_strengths else None), (beta, cfg, prev_cfg))

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
                grad_prev_merged = ctx.prior(grad, -beta.scale, transpose=True)
                grad_prev_logits = _to_halves(grad_prev_merged, prev_cfg).to(logits.dtype)
            if any(needs_strengths[:3]):
                logits, prev_logits = _unmasked(masked, logits, prev_logits)
            if needs_beta:
                residual = _merge(logits, cfg) - ctx.prior(_merge(prev_logits, prev_cfg))
                grad_beta = beta.grad(grad * residual)
            if needs_cfg:
                grad_cfg = cfg.grad(grad_merged * _difference(logits))
            if needs_prev_cfg:
                grad_prev_cfg = prev_cfg.grad(grad * ctx.prior(_difference(prev_logits), -beta.scale))
        grads = (None, grad_logits, grad_prev_logits, None, None, grad_beta, grad_cfg, grad_prev_cfg)
        return *grads, *[None] * len(needs_options)

    @staticmethod
    def tangent(primals: Sequence[Any], tangents: Sequence[Tensor | None]) -> Tensor:
        logits, prev_logits, size, prev_size, beta, cfg, prev_cfg, *options = primals
        d_logits, d_prev_logits, _, _, d_beta, d_cfg, d_prev_cfg, *_ = tangents
        prior = Prior(size, prev_size, *options)
        beta, cfg, prev_cfg = (Strength(x, logits) for x in (beta, cfg, prev_cfg))
        masked = logits.chunk(2)[0] == -math.inf
        dtype, terms = logits.dtype, []
        if d_logits is not None:
            terms.append((1 + beta.per_sample) * _merge(d_logits, cfg))
        if d_prev_logits is not None:
            terms.append(prior(_merge(d_prev_logits, prev_cfg), -beta.scale))
        if any(d is not None for d in (d_beta, d_cfg, d_prev_cfg)):
            logits, prev_logits = _unmasked(masked, logits, prev_logits)
        if d_beta is not None:
            residual = _merge(logits, cfg) - prior(_merge(prev_logits, prev_cfg))
            terms.append(Strength(d_beta, logits).per_sample * residual)
        if d_cfg is not None:
            factor = (1 + beta.per_sample) * Strength(d_cfg, logits).per_sample
            terms.append(factor * _difference(logits))
        if d_prev_cfg is not None:
            prior_difference = prior(_difference(prev_logits), -beta.scale)
            terms.append(Strength(d_prev_cfg, logits).per_sample * prior_difference)
        return sum(terms[1:], terms[0]).masked_fill(masked, 0).to(dtype)


class PriorLinear(Derivative):
    """y = scale * P x, or scale * P^T x."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        outcome, x, scale, *options, ctx.transpose = inputs
        ctx.prior = Prior(*options)
        _save(ctx, outcome, (x if ctx.needs_input_grad[2] else None,), (scale,))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        _, needs_x, needs_scale, *needs_options = ctx.needs_input_grad
        grad_x = grad_scale = None
        if grad is not None:
            x, scale = ctx.saved_tensors
            if needs_x:
                grad_x = ctx.prior(grad, scale, transpose=not ctx.transpose)
            if needs_scale:
                unscaled = ctx.prior(_accurate(x), transpose=ctx.transpose)
                grad_scale = Strength(scale, x).grad(_accurate(grad) * unscaled)
        return None, grad_x, grad_scale, *[None] * len(needs_options)

    @staticmethod
    def tangent(primals: Sequence[Any], tangents: Sequence[Tensor | None]) -> Tensor:
        x, scale, *options, transpose = primals
        d_x, d_scale, *_ = tangents
        prior = Prior(*options)
        terms = []
        if d_x is not None:
            terms.append(prior(_accurate(d_x), scale, transpose=transpose))
        if d_scale is not None:
            terms.append(prior(_accurate(x), d_scale, transpose=transpose))
        return sum(terms[1:], terms[0]).to(x.dtype)


class Prior:
    """P, the linear map of the prior from (B, L', V) to (B, L, V), as `_prior_linear` computes it."""

    def __init__(self, *options: Any) -> None:
        self._options = options

    def __call__(self, x: Tensor, scale: Tensor | None = None, *, transpose: bool = False) -> Tensor:
        """scale * P x, or scale * P^T x."""
        scale = x.new_ones(()) if scale is None else scale
        return torch.ops.ssg._prior_linear.default(x, scale, *self._options, transpose)


class Strength:
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


def _save(
    ctx: Any, outcome: Outcome, maps: tuple[Tensor | None, ...], strengths: tuple[Tensor | float, ...]
) -> None:
    ctx.tangent = outcome.tangent
    ctx.floats = [None if isinstance(value, Tensor) else value for value in strengths]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*maps, *(value if isinstance(value, Tensor) else None for value in strengths))


def _saved(ctx: Any) -> tuple[tuple[Tensor, Tensor], tuple[Strength, ...]]:
    logits, prev_logits, *tensors = ctx.saved_tensors
    values = (y if x is None else x for x, y in zip(tensors, ctx.floats, strict=True))
    return (logits, prev_logits), tuple(Strength(value, logits) for value in values)


def _unmasked(masked: Tensor, logits: Tensor, prev_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both logits, with zeros where they reach only masked results.

    Derivatives multiply the logits by numbers that are 0 there, and 0 times infinity would be NaN.
    """
    columns = masked.all(dim=1, keepdim=True)
    return (
        _accurate(logits).masked_fill(torch.cat([masked, masked]), 0),
        _accurate(prev_logits).masked_fill(torch.cat([columns, columns]), 0),
    )


def _merge(x: Tensor, cfg: Strength) -> Tensor:
    conditional, unconditional = _accurate(x).chunk(2)
    return (1 + cfg.per_sample) * conditional - cfg.per_sample * unconditional


def _difference(x: Tensor) -> Tensor:
    conditional, unconditional = _accurate(x).chunk(2)
    return conditional - unconditional


def _to_halves(merged: Tensor, cfg: Strength) -> Tensor:
    """The adjoint of `_merge`."""
    return torch.cat([(1 + cfg.per_sample) * merged, -cfg.per_sample * merged])


def _accurate(x: Tensor) -> Tensor:
    return x.to(_accurate_dtype(x))


def _accurate_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _autograd_kernel(op: OpOverload, derivative: type[Derivative]) -> Callable[..., Tensor]:
    go_on, defaults = redispatch(op), default_values(op)

    def kernel(keyset: Any, *arguments: Any) -> Tensor:
        requires_grad = torch.is_grad_enabled() and any_requires_grad(*arguments)
        if not requires_grad and not may_have_tangents():
            return go_on(keyset & AFTER_AUTOGRAD, *arguments)
        # The dispatcher leaves out trailing arguments that equal their defaults.
        arguments = live((*arguments, *defaults[len(arguments) :]))
        tangent = _tangent(derivative, arguments) if may_have_tangents() else None
        with below_autograd():
            result = go_on(keyset & AFTER_AUTOGRAD, *arguments)
        if not requires_grad and tangent is None:
            return result
        return derivative.apply(Outcome(result, tangent), *arguments)

    return kernel


def _tangent(derivative: type[Derivative], arguments: Sequence[Any]) -> Tensor | None:
    """The tangent of the operator's result; None where no argument has one."""
    primals, tangents = zip(*map(without_tangent, arguments), strict=True)
    return derivative.tangent(primals, tangents) if any(t is not None for t in tangents) else None


def _no_derivative_kernel(op: OpOverload) -> Callable[..., Tensor]:
    """For an operator that returns integers: they require no grad, and a tangent would be lost in them."""
    go_on = redispatch(op)

    def kernel(keyset: Any, *arguments: Any) -> Tensor:
        if may_have_tangents() and any(map(has_tangent, arguments)):
            raise RuntimeError(
                f"{operator_name(op)} is not differentiable, but one of its arguments has a forward-mode tangent"
            )
        return go_on(keyset & AFTER_AUTOGRAD, *arguments)

    return kernel


def _register() -> None:
    derivatives = {"guided_logits": GuidedLogits, "guided_logits_cfg": GuidedLogitsCfg}
    for overload in schema.OVERLOADS:
        if not overload.is_out:
            kernel = _autograd_kernel(overload.op, derivatives[overload.operator])
            library.implement(overload.qualname, kernel, "Autograd", with_keyset=True)
    prior_linear = _autograd_kernel(torch.ops.ssg._prior_linear.default, PriorLinear)
    library.implement(schema.PRIOR_LINEAR, prior_linear, "Autograd", with_keyset=True)
    for qualname in schema.SAMPLES:
        kernel = _no_derivative_kernel(schema.op_of(qualname))
        library.implement(qualname, kernel, "Autograd", with_keyset=True)


_register()
