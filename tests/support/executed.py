"""The compiled CUDA kernels, executed from their PTX: the call of strategies.py, and what comes out."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.ptx import cuda
from support.bounds import assert_accurate
from support.cuda_on_host import VARIANTS, expected_of, plan_of
from support.strategies import Call


def require_nvcc() -> None:
    """Skips the file where there is no nvcc; fails there under SSG_REQUIRE_CUDA=1."""
    if cuda.compiler() is None:
        if os.environ.get("SSG_REQUIRE_CUDA") == "1":
            pytest.fail("nvcc was not found, and SSG_REQUIRE_CUDA=1 asks for it")
        pytest.skip("nvcc was not found", allow_module_level=True)


def guided(
    call: Call,
    logits: Tensor | None,
    prev_logits: Tensor,
    *strengths: float | Tensor,
    out: Tensor | None = None,
    variant: str | None = None,
    transposed: bool = False,
    **how: Any,
) -> Tensor:
    """`out`, NaN where nothing was written."""
    if out is None:
        tokens = math.prod(call.prev_size if transposed else call.size)
        shape = (prev_logits.shape[0] // (2 if call.is_cfg else 1), tokens, prev_logits.shape[2])
        out = torch.full(shape, torch.nan, dtype=call.dtype)
    cuda.guided(
        logits,
        prev_logits,
        out,
        strengths,
        sources=2 if call.is_cfg else 1,
        choose=lambda made: plan_of(made, None if variant is None else VARIANTS[variant]),
        size=call.size,
        prev_size=call.prev_size,
        prior=call.prior,
        interpolation=call.interpolation,
        rescale=call.rescale,
        transposed=transposed,
        **how,
    )
    return out


def check(call: Call, **how: Any) -> Tensor:
    logits, prev_logits, strengths = call.logits(), call.prev_logits(), call.strengths()
    actual = guided(call, logits, prev_logits, *strengths, **how)
    expected = expected_of(call, logits, prev_logits, *strengths)
    largest = max([1.0, *(torch.as_tensor(s).abs().max().item() for s in strengths)])
    assert_accurate(actual, expected, *(largest**2 * x.double() for x in (logits, prev_logits)))
    return actual
