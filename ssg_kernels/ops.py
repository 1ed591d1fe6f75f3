"""The documented functions over the operators `torch.ops.ssg`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsFloat

import torch
from torch import Tensor

from ssg_kernels._names import STRENGTHS
from ssg_kernels._numbers import as_float
from ssg_kernels._torch import schema
from ssg_kernels._torch.internals import is_constant

__all__ = ["guided_logits", "guided_logits_cfg", "sample"]

# operator -> (which of its strengths are floats, whether it writes into `out`) -> overload
_OPS = {
    operator: {
        (tuple(strength in overload.floats for strength in strengths), overload.is_out): overload.op
        for overload in schema.OVERLOADS
        if overload.operator == operator
    }
    for operator, strengths in STRENGTHS.items()
}


_TEMPERED = torch.ops.ssg._sample_tempered
_TEMPERED_DEFAULT, _TEMPERED_FLOAT = _TEMPERED.default, _TEMPERED.float


def guided_logits(
    logits: Tensor,
    prev_logits: Tensor,
    size: Sequence[int],
    prev_size: Sequence[int],
    beta: Tensor | SupportsFloat,
    prior: str = "dse",
    interpolation: str = "bilinear",
    rescale: bool = False,
    *,
    out: Tensor | None = None,
) -> Tensor:
    r"""Scaled spatial guidance of one scale's logits, in one pass (Eq. 8 and Alg. 2 of the paper):

    .. math:: \ell_k^{SSG} = \ell_k + \beta_k (\ell_k - P \ell_{k-1})

    with P the prior, which carries the previous scale's grid to this one. A logit of -inf stays -inf,
    whatever the prior says there; other infinities and NaN stay inside their own sample and vocabulary
    column.

    Args:
        logits: raw logits of this scale, (B, L, V) with ``L = h*w``. Token t is at row ``t // w``, column
            ``t % w``. float32, bfloat16, float16 or float64, of any strides. The half types are computed in
            float32 and rounded once.
        prev_logits: raw (unguided) logits of the previous scale, (B, L', V) with ``L' = h'*w'``, of the same
            dtype and device.
        size: (h, w) of this scale.
        prev_size: (h', w') of the previous one; h' <= h and w' <= w.
        beta: the strength, a float or a real tensor of shape () or (B,) on the device of the logits. Under
            ``torch.compile`` neither recompiles when its value changes.
        prior: ``"dse"`` (Alg. 1: the interpolated previous logits, their low DCT coefficients replaced by
            those of the previous logits), ``"dse_zero_pad"`` (zeros for the high coefficients) or
            ``"spatial"`` (the interpolated logits themselves).
        interpolation: ``"nearest"``, ``"bilinear"``, ``"bicubic"`` or ``"area"``, as in
            :func:`torch.nn.functional.interpolate` with ``align_corners=False``, computed as on float64.
        rescale: multiply the previous logits' coefficients by ``sqrt(hw / (h'w'))``, so that a constant map keeps
            its value. The default copies them, as the paper does.
        out: a tensor to write into, (B, L, V) of the same dtype and device with a contiguous vocabulary; it
            may be `logits` itself. Not differentiable.

    Returns:
        A new contiguous tensor (B, L, V) in the dtype of the logits, or `out`.

    Raises:
        ValueError: an argument is none of the above. The message names it, its value and what was expected.
        RuntimeError: likewise.

    Differentiable any number of times, in reverse and in forward mode, with respect to both logits and a
    tensor beta.
    """
    beta = _as_strength("guided_logits", "beta", beta, logits)
    floats = (not isinstance(beta, Tensor),)
    arguments = (logits, prev_logits, size, prev_size, beta, prior, interpolation, rescale)
    if out is None:
        return _OPS["guided_logits"][floats, False](*arguments)
    return _OPS["guided_logits"][floats, True](*arguments, out=out)


def guided_logits_cfg(
    logits: Tensor,
    prev_logits: Tensor,
    size: Sequence[int],
    prev_size: Sequence[int],
    beta: Tensor | SupportsFloat,
    cfg: Tensor | SupportsFloat,
    prev_cfg: Tensor | SupportsFloat,
    prior: str = "dse",
    interpolation: str = "bilinear",
    rescale: bool = False,
    *,
    out: Tensor | None = None,
) -> Tensor:
    r"""Classifier-free and scaled spatial guidance in one pass: :func:`guided_logits` of the merged logits

    .. math:: m_k = (1 + t) c_k - t u_k, \qquad m_{k-1} = (1 + t') c_{k-1} - t' u_{k-1}

    of both scales, with c the conditional and u the unconditional half. Where the conditional logit is -inf,
    so is the result. A scale s in the form ``s*c + (1-s)*u`` is ``t = s - 1``.

    Args:
        logits: (2B, L, V), the conditional half first.
        prev_logits: (2B, L', V), likewise.
        size: (h, w) of this scale.
        prev_size: (h', w') of the previous one; h' <= h and w' <= w.
        beta: the strength of the guidance by the prior, a float or a real tensor of shape () or (B,).
        cfg: t, like beta.
        prev_cfg: t', like beta. With the previous scale's t, the prior comes from the logits as that scale merged
            them. With this scale's t, the result is that of guiding both halves and merging them afterwards.
        prior, interpolation, rescale: as for :func:`guided_logits`.
        out: as for :func:`guided_logits`; it may be the conditional half ``logits[:B]`` itself.

    Returns:
        A new contiguous tensor (B, L, V) in the dtype of the logits, or `out`.

    Raises:
        ValueError: an argument is none of the above. The message names it, its value and what was expected.
        RuntimeError: likewise.

    Differentiable like :func:`guided_logits`, with respect to cfg and prev_cfg too.
    """
    beta = _as_strength("guided_logits_cfg", "beta", beta, logits)
    cfg = _as_strength("guided_logits_cfg", "cfg", cfg, logits)
    prev_cfg = _as_strength("guided_logits_cfg", "prev_cfg", prev_cfg, logits)
    floats = (not isinstance(beta, Tensor), not isinstance(cfg, Tensor), not isinstance(prev_cfg, Tensor))
    arguments = (logits, prev_logits, size, prev_size, beta, cfg, prev_cfg, prior, interpolation, rescale)
    if out is None:
        return _OPS["guided_logits_cfg"][floats, False](*arguments)
    return _OPS["guided_logits_cfg"][floats, True](*arguments, out=out)


def sample(logits: Tensor, uniform: Tensor, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    r"""One token per position: top-k, then top-p, then the inverse CDF of a uniform number, in one pass.

    1. With `top_k` > 0 the logits below the k-th largest of their row go. Those equal to it stay.
    2. Each logit :math:`\ell_v` that is left has the weight
       :math:`w_v \approx 2^{39} \exp(\ell_v - \max \ell)`, a whole number of 24 significant bits. Sums of these are
       exact in any order. The probabilities are at least as close to an exact softmax as float32's softmax is. A
       token 27.04 nats below the largest weighs nothing.
    3. With `top_p` > 0 the tokens are sorted in ascending order, equal ones in the order of the vocabulary. A token
       goes if its running weight is at most 1 - p of the whole. At least one stays.
    4. The result is the first token, in the order of the vocabulary, whose running weight exceeds `uniform` times
       the weight of all that are left.

    The samplers' shared function does the same with softmax, sort and cumsum in float32; here the result is also
    defined where their rounding would decide. :func:`ssg_kernels.reference.sample_weights` returns the weights. The
    same arguments give the same tokens, on any number of threads.

    Args:
        logits: (B, L, V), float32, bfloat16, float16 or float64, of any strides, V at most 8388608. -inf masks a token.
        uniform: random numbers in [0, 1), (B, L), float32 or float64, on the device of the logits. A number
            outside counts as the nearest one inside, NaN as 0.
        top_k: how many of the largest logits stay, 0 to V; 0 keeps all.
        top_p: the probability that stays, 0 to 1; 0.0 keeps all.

    Returns:
        Token ids, (B, L), int64. A row whose largest logit is not finite (it holds a NaN or +inf, or -inf alone)
        gives -1 on a GPU, where raising would wait for the device.

    Raises:
        ValueError: an argument is none of the above, or, on the CPU, the largest logit of a row is not finite.
        RuntimeError: likewise.

    Not differentiable: the tokens require no grad, and an argument with a forward-mode tangent is refused.
    """
    if torch.compiler.is_compiling() and not is_constant(top_p):
        return sample_tempered(logits, uniform, 1.0, top_k, top_p)
    return torch.ops.ssg.sample.default(logits, uniform, top_k, top_p)


def sample_tempered(
    logits: Tensor,
    uniform: Tensor,
    scale: Tensor | float,
    top_k: Tensor | int,
    top_p: Tensor | float,
) -> Tensor:
    """:func:`sample` of the logits times `scale`, which is 1 / temperature.

    Each of `scale`, `top_k` and `top_p` is a number or a tensor of shape () or (B,) on the device of the logits.
    """
    if torch.compiler.is_compiling() and not all(
        isinstance(x, Tensor) or is_constant(x) for x in (scale, top_p)
    ):
        # A float argument of an operator is part of the compiled code. One that changes has to be a tensor.
        top_p = top_p if isinstance(top_p, Tensor) else _number(top_p, logits)
    if isinstance(top_k, Tensor) or isinstance(top_p, Tensor):
        numbers = (x if isinstance(x, Tensor) else _number(x, logits) for x in (scale, top_k, top_p))
        return _TEMPERED.tensors(logits, uniform, *numbers)
    if isinstance(scale, Tensor):
        return _TEMPERED_DEFAULT(logits, uniform, scale, top_k, top_p)
    return _TEMPERED_FLOAT(logits, uniform, scale, top_k, top_p)


def _number(value: float, like: Tensor) -> Tensor:
    """The float as data of compiled code: a product with a tensor, in float64 on the device of `like`."""
    return torch.ones((), dtype=torch.float64, device=like.device) * value


def _as_strength(name: str, argument: str, value: Tensor | SupportsFloat, logits: Tensor) -> Tensor | float:
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, float):
        number = as_float(value)
        if number is None:
            raise TypeError(
                f"{name}: {argument} must be a float or a tensor of shape () or (B,), got {value!r}"
            )
        value = number
    if torch.compiler.is_compiling():
        # A float argument of an operator is part of the compiled code; a product with a tensor is data.
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        return logits.new_ones((), dtype=dtype) * value
    return value
