"""Checks a contender before it is timed: a contender whose result is wrong gets no figure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssg_kernels import reference

from .cases import BETA, CFG, PREV_CFG, Case

# Bound of an exact result, relative to the largest expected value. Half types may be off by half an ulp more.
EXACT = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}
EQUAL_FRACTION = 0.99
# A result beyond these bounds is wrong, not merely rounded once too often. The first is for the largest error,
# relative to the largest expected value; the second for the root mean square of the error, relative to that of the
# expected values.
WRONG_MAX = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
WRONG_RMS = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}

COLUMNS = 256


@dataclass(frozen=True)
class Accuracy:
    """How accurate a result is.

    ``verdict`` is "exact" (within the project's bound), "inexact" (right, but beyond that bound) or "wrong".
    ``max_error`` and ``rms_error`` are relative. ``equal_fraction`` is the share of elements that equal the correctly
    rounded result.
    """

    verdict: str
    max_error: float
    rms_error: float
    equal_fraction: float
    reason: str = ""


def expected(case: Case, logits: Tensor, prev_logits: Tensor) -> Tensor:
    """The reference's result in float64, computed a few vocabulary columns at a time."""
    out = torch.empty(case.batch, case.tokens, case.vocab, dtype=torch.float64)
    for start in range(0, case.vocab, COLUMNS):
        columns = slice(start, start + COLUMNS)
        fine, coarse = logits[..., columns].double(), prev_logits[..., columns].double()
        if case.cfg:
            out[..., columns] = reference.guided_logits_cfg(
                fine, coarse, case.size, case.prev_size, BETA, CFG, PREV_CFG
            )
        else:
            out[..., columns] = reference.guided_logits(fine, coarse, case.size, case.prev_size, BETA)
    return out


def half_ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Half the spacing of ``dtype`` at each of the float64 ``values``."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(values.abs().clamp(min=info.tiny))
    return torch.ldexp(torch.full_like(values, info.eps / 4), exponent)


def judge(got: Tensor, want: Tensor, dtype: torch.dtype) -> Accuracy:
    """Compares ``got``, which should have ``dtype``, with the float64 result ``want``."""
    if got.dtype != dtype or got.shape != want.shape:
        reason = f"{got.dtype} {tuple(got.shape)} instead of {dtype} {tuple(want.shape)}"
        return Accuracy("wrong", float("inf"), float("inf"), 0.0, reason)
    error = (got.double() - want).abs()
    scale = want.abs().max().item()
    # A NaN would slip through a comparison, so it counts as an infinite error.
    error = torch.nan_to_num(error, nan=float("inf"), posinf=float("inf"))
    max_error = error.max().item() / scale
    rms_error = (error.square().mean().sqrt() / want.square().mean().sqrt()).item()
    equal = (got == want.to(dtype)).double().mean().item()
    if not (max_error <= WRONG_MAX[dtype] and rms_error <= WRONG_RMS[dtype]):
        reason = f"largest error {max_error:.1e} of the largest value, root mean square {rms_error:.1e}"
        return Accuracy("wrong", max_error, rms_error, equal, reason)
    allowed = torch.full_like(error, EXACT[dtype] * scale)
    exact = True
    if dtype in (torch.bfloat16, torch.float16):
        allowed += half_ulp(want, dtype)
        exact = equal >= EQUAL_FRACTION
    exact = exact and bool((error <= allowed).all())
    return Accuracy("exact" if exact else "inexact", max_error, rms_error, equal)
