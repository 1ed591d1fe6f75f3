"""The accuracy that a result must have against the reference in float64: `ssg_kernels._accuracy`, as an assertion."""

from __future__ import annotations

import torch
from torch import Tensor

from ssg_kernels._accuracy import MANTISSA_BITS, RELATIVE, allowed_error, ulp

__all__ = ["RELATIVE", "assert_accurate", "ulp"]

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
    excess = error - allowed_error(expected, dtype, largest)
    assert (excess <= 0).all(), (
        f"{(excess > 0).sum()} of {actual.numel()} elements miss the {dtype} bound, "
        f"the worst by {excess.max().item():.3g} (error {error.max().item():.3g}, largest {largest:.3g})"
    )
    # Expanded logits repeat their values.
    if dtype in MANTISSA_BITS and expected.unique().numel() >= _SHARE_COUNTS_FROM:
        share = (actual == expected.to(dtype)).double().mean().item()
        assert share >= 0.99, f"only {share:.2%} equal the rounded float64 result"
