"""Times calls so small that they cost little but the way into the operator, against ``torch.addmm`` of that size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import ssg_kernels

from . import factors
from .cases import BETA, Case, make_inputs
from .timing import Budget, Rotation, measure

SIZES: tuple[Case, ...] = (
    Case("1x1-2x2-v64", "overhead", (1, 1), (2, 2), vocab=64),
    Case("2x2-3x3-v64", "overhead", (2, 2), (3, 3), vocab=64),
    Case("1x1-2x2-v4096", "overhead", (1, 1), (2, 2), vocab=4096),
)
BASELINE = "torch.addmm"


def calls(case: Case, logits: Tensor, prev_logits: Tensor) -> dict[str, Callable[..., Tensor]]:
    """Every way to call the step on these logits (B = 1), and addmm with the dense operator on 2-D views.

    The functions ignore their arguments. All that they need, views included, is bound beforehand, so that only the
    call itself is timed.
    """
    x, p, x2, p2 = logits, prev_logits, logits[0], prev_logits[0]
    size, prev_size, tensor_beta = case.size, case.prev_size, torch.tensor(BETA)
    operator = factors.dense_operator(prev_size, size).to(x.dtype)
    packet = torch.ops.ssg.guided_logits
    default, with_float = packet.default, packet.float
    aten_addmm = torch.ops.aten.addmm.default
    public = ssg_kernels.guided_logits
    return {
        BASELINE: lambda *_: torch.addmm(x2, operator, p2, beta=1 + BETA, alpha=-BETA),
        "torch.ops.aten.addmm.default": lambda *_: aten_addmm(x2, operator, p2, beta=1 + BETA, alpha=-BETA),
        "ops, tensor beta": lambda *_: packet(x, p, size, prev_size, tensor_beta),
        "ops, float beta": lambda *_: packet(x, p, size, prev_size, BETA),
        "ops.default, tensor beta": lambda *_: default(x, p, size, prev_size, tensor_beta),
        "ops.float, float beta": lambda *_: with_float(x, p, size, prev_size, BETA),
        "ssg_kernels.guided_logits, tensor beta": lambda *_: public(x, p, size, prev_size, tensor_beta),
        "ssg_kernels.guided_logits, float beta": lambda *_: public(x, p, size, prev_size, BETA),
    }


def measure_overhead(budget: Budget) -> list[dict[str, Any]]:
    """One row per size: microseconds per call, and that time in units of addmm. In float32, under inference mode."""
    rows = []
    for case in SIZES:
        inputs = make_inputs(case, torch.float32)[0]
        with torch.inference_mode():
            timings = measure(calls(case, *inputs), Rotation([inputs], cold=False), budget)
        base = timings[BASELINE].median
        figures = {
            name: {**timing.as_json(), "over_addmm": timing.median / base} for name, timing in timings.items()
        }
        rows.append({"case": case.name, "calls": figures})
    return rows
