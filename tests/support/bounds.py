"""The accuracy that must hold against the literal path in float64, by dtype of the logits."""

from __future__ import annotations

import torch
from torch import Tensor

RELATIVE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}
_MANTISSA_BITS = {torch.bfloat16: 7, torch.float16: 10}
_MIN_EXPONENT = {torch.bfloat16: -126, torch.float16: -14}

# Of fewer elements a share of 99 % says little: one of ten may lie next to a rounding boundary.
_SHARE_COUNTS_FROM = 1000
# All of a handful of elements can be differences of nearly equal terms, so that the largest is small as well.
_HANDFUL = 16


def assert_accurate(actual: Tensor, expected: Tensor, *terms: Tensor) -> None:
    """Asserts that `actual` is `expected` (float64, finite) as exactly as its dtype allows.

    `terms` are what the expected values were summed from; they set the scale where there are few elements.
    """
    assert expected.dtype == torch.float64
    assert actual.shape == expected.shape
    if not expected.numel():
        return
    dtype = actual.dtype
    assert actual.isfinite().all(), (
        f"{(~actual.isfinite()).sum()} of {actual.numel()} elements are not finite"
    )
    largest = expected.abs().max().item()
    if expected.numel() < _HANDFUL:
        largest = max([largest, *(term.abs().max().item() for term in terms)])
    error = (actual.double() - expected).abs()
    bound = RELATIVE[dtype] * largest + (0.5 * ulp(expected, dtype) if dtype in _MANTISSA_BITS else 0.0)
    excess = error - bound
    assert (excess <= 0).all(), (
        f"{(excess > 0).sum()} of {actual.numel()} elements miss the {dtype} bound, "
        f"the worst by {excess.max().item():.3g} (error {error.max().item():.3g}, largest {largest:.3g})"
    )
    if dtype in _MANTISSA_BITS and actual.numel() >= _SHARE_COUNTS_FROM:
        share = (actual == expected.to(dtype)).double().mean().item()
        assert share >= 0.99, f"only {share:.2%} equal the rounded float64 result"


def ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance from |x| to the next number of `dtype` above, for float64 x."""
    _, exponent = torch.frexp(x)
    return torch.exp2((exponent - 1).clamp_min(_MIN_EXPONENT[dtype]).double() - _MANTISSA_BITS[dtype])
