"""The accuracy that a result must have against the reference in float64, for each dtype of the logits."""

from __future__ import annotations

import torch
from torch import Tensor

RELATIVE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}
_MANTISSA_BITS = {torch.bfloat16: 7, torch.float16: 10}
_MIN_EXPONENT = {torch.bfloat16: -126, torch.float16: -14}

# With fewer elements a share of 99 % says little: even one of ten may lie next to a rounding boundary.
_SHARE_COUNTS_FROM = 1000
# If there are fewer elements than this, all can be differences of nearly equal terms; then the largest is small too.
_HANDFUL = 16


def assert_accurate(actual: Tensor, expected: Tensor, *terms: Tensor) -> None:
    """Asserts that `actual` equals `expected` (float64, finite) as exactly as its dtype allows.

    The expected values are sums of `terms`. These set the scale of the error if there are few elements.
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
    """For float64 x, the distance from |x| to the next larger number of `dtype`."""
    _, exponent = torch.frexp(x)
    return torch.exp2((exponent - 1).clamp_min(_MIN_EXPONENT[dtype]).double() - _MANTISSA_BITS[dtype])
