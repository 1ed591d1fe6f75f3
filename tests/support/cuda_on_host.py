"""Calls of the CUDA kernels' source on the host: the call of strategies.py, a launch plan, and what comes out."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ssg_kernels import reference
from support.packed import load_host
from support.strategies import Call

HOST = load_host()

Strength = float | Tensor

# Every tile of csrc/cuda/tiles.h that serves any size, with different ways to cut the work: columns, rows at once,
# splits, warps.
VARIANTS: dict[str, dict[str, Any]] = {
    "dense": {"engine": "dense", "thread_columns": 1},
    "fma 2": {"engine": "fma", "thread_columns": 2, "group_pairs": 3, "splits": 2, "warps": 8},
    "fma 2, wide": {"engine": "fma", "thread_columns": 2, "column_warps": 4, "warps": 16},
    "fma 1": {"engine": "fma", "thread_columns": 1, "group_pairs": 4},
    "mma 4": {"engine": "mma", "thread_columns": 4},
    "mma 2": {"engine": "mma", "thread_columns": 2, "splits": 2},
    "direct": {"engine": "direct"},
}


# The tiles for one size each: their columns, the sizes, whether they take only 16-bit logits of one source.
SIZED = [
    (tile[1], tile[2], {10: 13, 13: 16, 18: 24, 24: 32, 48: 64}[tile[2]], tile[1] == 8)
    for tile in HOST.cuda_tiles
    if tile[2]
]


def plan_of(prepared: Any, variant: dict[str, Any] | None) -> Any:
    """The plan of a variant or what comes closest: fewer splits and pairs on a small grid, no tensor cores on a row."""
    for choice in () if variant is None else (variant, {**variant, "splits": 1, "group_pairs": 1}):
        try:
            return prepared.plan_with(**choice)
        except ValueError:
            pass
    return prepared.plan()


def place(x: Tensor, first: int = 0) -> tuple[int, int, int]:
    assert x.stride(2) == 1 or x.shape[2] <= 1
    return x.data_ptr() + first * x.stride(0) * x.element_size(), x.stride(0), x.stride(1)


def number(strength: Strength) -> tuple[int, int, str, float]:
    if isinstance(strength, Tensor):
        stride = strength.stride(0) if strength.dim() else 0
        return strength.data_ptr(), stride, str(strength.dtype).removeprefix("torch."), 0.0
    return 0, 0, "float32", strength


def prepare(
    call: Call, logits: Tensor | None, prev_logits: Tensor, out: Tensor, *strengths: Strength, **facts: Any
) -> Any:
    """The call as the launcher sees it; `prev_logits` and `out` decide its batch and vocabulary."""
    sources = 2 if call.is_cfg else 1
    batch, _, vocabulary = out.shape

    def places(x: Tensor) -> list[tuple[int, int, int]]:
        return [place(x, s * batch) for s in range(sources)]

    return HOST.CudaCall(
        size=call.size,
        prev_size=call.prev_size,
        prior=call.prior,
        interpolation=call.interpolation,
        rescale=call.rescale,
        dtype=str(out.dtype).removeprefix("torch."),
        batch=batch,
        vocabulary=vocabulary,
        current=[] if logits is None else places(logits),
        previous=places(prev_logits),
        out=place(out),
        strengths=[number(s) for s in strengths],
        **facts,
    )


def expected_of(call: Call, logits: Tensor, prev_logits: Tensor, *strengths: Strength) -> Tensor:
    function = reference.guided_logits_cfg if call.is_cfg else reference.guided_logits
    doubles = tuple(s.double() if isinstance(s, Tensor) else s for s in strengths)
    return function(logits.double(), prev_logits.double(), call.size, call.prev_size, *doubles, *call.options)
