"""The accuracy that a result must have against the reference in float64, for each dtype of the logits."""

from __future__ import annotations

import torch
from torch import Tensor

# The largest error, relative to the largest value. A half type may also be off by half its own rounding step.
RELATIVE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}
MANTISSA_BITS = {torch.bfloat16: 7, torch.float16: 10}
_MIN_EXPONENT = {torch.bfloat16: -126, torch.float16: -14}


def allowed_error(expected: Tensor, dtype: torch.dtype, largest: float) -> Tensor | float:
    """The error that each element of a result of `dtype` may have.

    `expected` is the result in float64, and `largest` the largest value in it.
    """
    rounding = 0.5 * ulp(expected, dtype) if dtype in MANTISSA_BITS else 0.0
    return RELATIVE[dtype] * largest + rounding


def ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """For float64 x, the distance from |x| to the next larger number of a half type."""
    _, exponent = torch.frexp(x)
    return torch.exp2((exponent - 1).clamp_min(_MIN_EXPONENT[dtype]).double() - MANTISSA_BITS[dtype])
