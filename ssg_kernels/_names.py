"""The names that arguments may have. `csrc/names.h` has the same lists; `tests/core/test_names.py` compares them."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ssg_kernels._torch.schema import STRENGTHS as STRENGTHS

# Each prior as a sum of separable terms, docs/method.md: the sign of the term, and the factor that it has along both
# axes. U interpolates, B copies the coarse spectrum, G is the interpolated signal's low band.
PRIOR_TERMS = {
    "dse": ((1.0, "U"), (1.0, "B"), (-1.0, "G")),
    "dse_zero_pad": ((1.0, "B"),),
    "spatial": ((1.0, "U"),),
}
PRIORS = tuple(PRIOR_TERMS)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area")
# What logits may be.
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# What the tensor of a strength may be.
STRENGTH_DTYPES = (*DTYPES, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)

# Named schedules of beta and of cfg, and whether SSG guides the merged logits or both halves.
SCHEDULES = ("linear", "static")
CFG_SCHEDULES = ("static", "ramp")
CFG_ORDERS = ("after", "before")

# The values of SSG_KERNELS_BACKEND.
BACKENDS = ("reference", "cpu", "triton", "cuda")


def quoted(names: Iterable[str]) -> str:
    """The names as an error message lists them."""
    return ", ".join(map(repr, names))


def dtype_names(dtypes: Iterable[torch.dtype] = DTYPES) -> str:
    """The dtypes as an error message lists them."""
    *names, last = (str(dtype).removeprefix("torch.") for dtype in dtypes)
    return f"{', '.join(names)} or {last}"
