"""Derivatives of the operators, in reverse and in forward mode, any number of times.

The guided operators are linear in both logits and affine in each strength: every derivative is made of elementwise
products and of `_prior_linear`, whose derivatives are `_prior_linear` again. Where the result was set to -inf they
are 0.

`torch.library.register_autograd` would not do: its Function is skipped where nothing requires grad, and a
forward-mode tangent is lost there without a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _after_autograd_keyset, _any_requires_grad, _AutoDispatchBelowAutograd
from torch._functorch.utils import enable_single_level_autograd_function, unwrap_dead_wrappers
from torch._ops import OpOverload
from torch.autograd import forward_ad

from ssg_kernels import _schema


class _Map(NamedTuple):
    """The linear map P of a prior, from (B, L', V) to (B, L, V)."""

    size: list[int]
    prev_size: list[int]
    prior: str = "dse"
    interpolation: str = "bilinear"
    rescale: bool = False

    def __call__(self, x: Tensor, scale: Tensor | None = None, *, transpose: bool = False) -> Tensor:
        """scale * P x, or scale * P^T x."""
        scale = x.new_ones(()) if scale is None else scale
        return torch.ops.ssg._prior_linear.default(x, scale, *self, transpose)


class Derivative(torch.autograd.Function):
    """What the Functions below share: `forward(op, keyset, modes, *arguments of the operator)`."""

    @classmethod
    def apply(cls, *arguments: Any) -> Tensor:
        # Function.apply would start at the outermost functorch transform again; this key is reached at one level, with
        # that level's tensors, and differentiates at that level.
        with enable_single_level_autograd_function():
            return super(torch.autograd.Function, cls).apply(*unwrap_dead_wrappers(arguments))  # type: ignore[misc]

    @staticmethod
    def forward(op: OpOverload, keyset: Any, modes: tuple[bool, bool], *arguments: Any) -> Tensor:
        # A Function turns both modes off; the functorch levels below this one still need them.
        grad_enabled, forward_enabled = modes
        with (
            torch.set_grad_enabled(grad_enabled),
            forward_ad._set_fwd_grad_enabled(forward_enabled),
            _AutoDispatchBelowAutograd(),
        ):
            return op.redispatch(keyset & _after_autograd_keyset, *arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        raise NotImplementedError


def _save(ctx: Any, *tensors: Any) -> None:
    """Saves the tensors among them, None for the rest."""
    saved = tuple(x if isinstance(x, Tensor) else None for x in tensors)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*saved)
    if forward_ad._current_level >= 0:
        ctx.save_for_forward(*saved)


class GuidedLogits(Derivative):
    """guided = (1 + beta) * logits - beta * P prev_logits."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        logits, prev_logits, size, prev_size, beta, *options = inputs[3:]
        ctx.map = _Map(size, prev_size, *options)
        ctx.beta = beta
        wants_beta = ctx.needs_input_grad[7] or forward_ad._current_level >= 0
        _save(ctx, logits, prev_logits if wants_beta else None, beta)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        grads: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        if grad is None:
            return tuple(grads)
        logits, prev_logits, saved_beta = ctx.saved_tensors
        beta = _Strength(ctx.beta if saved_beta is None else saved_beta, logits)
        masked = logits == -math.inf
        grad = grad.masked_fill(masked, 0)
        if ctx.needs_input_grad[3]:
            grads[3] = _scaled(grad, 1 + beta.per_sample)
        if ctx.needs_input_grad[4]:
            grads[4] = ctx.map(grad, -beta.scale, transpose=True)
        if ctx.needs_input_grad[7]:
            residual = _accurate(logits) - ctx.map(_accurate(prev_logits))
            grads[7] = beta.grad(_accurate(grad) * residual.masked_fill(masked, 0))
        return tuple(grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        d_logits, d_prev_logits, d_beta = tangents[3], tangents[4], tangents[7]
        logits, prev_logits, saved_beta = ctx.saved_tensors
        beta = _Strength(ctx.beta if saved_beta is None else saved_beta, logits)
        terms = []
        if d_logits is not None:
            terms.append((1 + beta.per_sample) * _accurate(d_logits))
        if d_prev_logits is not None:
            terms.append(ctx.map(_accurate(d_prev_logits), -beta.scale))
        if d_beta is not None:
            residual = _accurate(logits) - ctx.map(_accurate(prev_logits))
            terms.append(_Strength(d_beta, logits).per_sample * residual)
        return _tangent(terms, logits)


class GuidedLogitsCfg(Derivative):
    """guided = (1 + beta) * m - beta * P prev_m with m = c + cfg * (c - u) of each scale."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        logits, prev_logits, size, prev_size, *rest = inputs[3:]
        ctx.map = _Map(size, prev_size, *rest[3:])
        ctx.strengths = rest[:3]
        wants_strengths = any(ctx.needs_input_grad[7:10]) or forward_ad._current_level >= 0
        _save(ctx, logits, prev_logits if wants_strengths else None, *rest[:3])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        grads: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        if grad is None:
            return tuple(grads)
        needs = ctx.needs_input_grad
        (logits, prev_logits), (beta, cfg, prev_cfg) = _saved_cfg(ctx)
        conditional, unconditional = logits.chunk(2)
        masked = conditional == -math.inf
        # Several factors follow: in the accurate dtype, so that the gradients are rounded once.
        grad = _accurate(grad.masked_fill(masked, 0))
        if needs[3] or needs[8]:
            grad_merged = grad * (1 + beta.per_sample)
        if needs[3]:
            grads[3] = _to_halves(grad_merged, cfg).to(logits.dtype)
        if needs[4]:
            grads[4] = _to_halves(ctx.map(grad, -beta.scale, transpose=True), prev_cfg).to(logits.dtype)
        if needs[7]:
            residual = _merge(logits, cfg) - ctx.map(_merge(prev_logits, prev_cfg))
            grads[7] = beta.grad(grad * residual.masked_fill(masked, 0))
        if needs[8]:
            difference = _accurate(conditional) - _accurate(unconditional)
            grads[8] = cfg.grad(grad_merged * difference.masked_fill(masked, 0))
        if needs[9]:
            prior_difference = ctx.map(_difference(prev_logits), -beta.scale)
            grads[9] = prev_cfg.grad(grad * prior_difference.masked_fill(masked, 0))
        return tuple(grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        d_logits, d_prev_logits, d_beta, d_cfg, d_prev_cfg = (tangents[i] for i in (3, 4, 7, 8, 9))
        (logits, prev_logits), (beta, cfg, prev_cfg) = _saved_cfg(ctx)
        terms = []
        if d_logits is not None:
            terms.append((1 + beta.per_sample) * _merge(d_logits, cfg))
        if d_prev_logits is not None:
            terms.append(ctx.map(_merge(d_prev_logits, prev_cfg), -beta.scale))
        if d_beta is not None:
            residual = _merge(logits, cfg) - ctx.map(_merge(prev_logits, prev_cfg))
            terms.append(_Strength(d_beta, logits).per_sample * residual)
        if d_cfg is not None:
            terms.append((1 + beta.per_sample) * _Strength(d_cfg, logits).per_sample * _difference(logits))
        if d_prev_cfg is not None:
            prior_difference = ctx.map(_difference(prev_logits), -beta.scale)
            terms.append(_Strength(d_prev_cfg, logits).per_sample * prior_difference)
        return _tangent(terms, logits.chunk(2)[0])


class PriorLinear(Derivative):
    """y = scale * P x, or scale * P^T x."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, scale, *options, ctx.transpose = inputs[3:]
        ctx.map = _Map(*options)
        wants_scale = ctx.needs_input_grad[4] or forward_ad._current_level >= 0
        _save(ctx, x if wants_scale else None, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        grads: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        if grad is None:
            return tuple(grads)
        x, scale = ctx.saved_tensors
        if ctx.needs_input_grad[3]:
            grads[3] = ctx.map(grad, scale, transpose=not ctx.transpose)
        if ctx.needs_input_grad[4]:
            unscaled = ctx.map(_accurate(x), transpose=ctx.transpose)
            grads[4] = _Strength(scale, x).grad(_accurate(grad) * unscaled)
        return tuple(grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        d_x, d_scale = tangents[3], tangents[4]
        x, scale = ctx.saved_tensors
        terms = []
        if d_x is not None:
            terms.append(ctx.map(_accurate(d_x), scale, transpose=ctx.transpose))
        if d_scale is not None:
            terms.append(ctx.map(_accurate(x), d_scale, transpose=ctx.transpose))
        return sum(terms[1:], terms[0]).to(x.dtype) if terms else None


class _Strength:
    """A float or a tensor of shape () or (B,), in the dtype in which `like` is computed with."""

    scale: Tensor
    """As a tensor, of the kind of `like` (a DTensor wants its own kind)."""
    per_sample: Tensor | float
    """To be multiplied with (B, L, V)."""

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


def _saved_cfg(ctx: Any) -> tuple[tuple[Tensor, Tensor], tuple[_Strength, ...]]:
    logits, prev_logits, *saved = ctx.saved_tensors
    values = (value if tensor is None else tensor for value, tensor in zip(ctx.strengths, saved, strict=True))
    return (logits, prev_logits), tuple(_Strength(value, logits) for value in values)


def _merge(x: Tensor, cfg: _Strength) -> Tensor:
    conditional, unconditional = _accurate(x).chunk(2)
    return (1 + cfg.per_sample) * conditional - cfg.per_sample * unconditional


def _difference(x: Tensor) -> Tensor:
    conditional, unconditional = _accurate(x).chunk(2)
    return conditional - unconditional


def _to_halves(merged: Tensor, cfg: _Strength) -> Tensor:
    """The adjoint of `_merge`."""
    return torch.cat([(1 + cfg.per_sample) * merged, -cfg.per_sample * merged])


def _scaled(x: Tensor, factor: Tensor | float) -> Tensor:
    return x * factor if isinstance(factor, float) else (_accurate(x) * factor).to(x.dtype)


def _tangent(terms: list[Tensor], logits: Tensor) -> Tensor | None:
    if not terms:
        return None
    return sum(terms[1:], terms[0]).masked_fill(logits == -math.inf, 0).to(logits.dtype)


def _accurate(x: Tensor) -> Tensor:
    return x.to(_accurate_dtype(x))


def _accurate_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _autograd_kernel(op: OpOverload, derivative: type[Derivative]) -> Callable[..., Tensor]:
    redispatch = op._handle.redispatch_boxed
    defaults = [argument.default_value for argument in op._schema.arguments]

    def kernel(keyset: Any, *arguments: Any) -> Tensor:
        grad_enabled = torch.is_grad_enabled()
        if forward_ad._current_level < 0 and not (grad_enabled and _any_requires_grad(*arguments)):
            return redispatch(keyset & _after_autograd_keyset, *arguments)
        # The dispatcher leaves out trailing arguments that equal their defaults.
        arguments += tuple(defaults[len(arguments) :])
        modes = (grad_enabled, torch._C._is_fwd_grad_enabled())
        return derivative.apply(op, keyset, modes, *arguments)

    return kernel


def _register() -> None:
    derivatives = {"guided_logits": GuidedLogits, "guided_logits_cfg": GuidedLogitsCfg}
    for overload in _schema.OVERLOADS:
        if not overload.is_out:
            kernel = _autograd_kernel(overload.op, derivatives[overload.operator])
            _schema.implement(overload.qualname, kernel, "Autograd", with_keyset=True)
    prior_linear = _autograd_kernel(torch.ops.ssg._prior_linear.default, PriorLinear)
    _schema.implement(_schema.PRIOR_LINEAR, prior_linear, "Autograd", with_keyset=True)


_register()
