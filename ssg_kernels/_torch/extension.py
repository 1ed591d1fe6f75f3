"""The compiled kernels, where they were built and can be loaded.

The module `_C` brings `libssg_kernels`, which registers the operators and their kernels when it is loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch

# Why the compiled kernels are not in use; None where they are.
error: str | None = None

try:
    importlib.import_module("ssg_kernels._C")
except ImportError as reason:
    error = str(reason)


def is_loaded() -> bool:
    """Whether the compiled kernels serve tensors on the CPU."""
    return error is None


def take_the_rest(families: Sequence[int] = ()) -> None:
    """Makes the compiled kernels hand the calls that they do not serve to the operators `schema.fallback_name`.

    They also hand over calls on cards of these families, where SSG_KERNELS_BACKEND is not set.
    """
    if is_loaded():
        importlib.import_module("ssg_kernels._C").hand_over_the_rest(families)


def cuda_error(device: torch.device) -> str | None:
    """Why the CUDA kernels cannot serve tensors on `device`; None where they can."""
    if device.type != "cuda":
        return f"it serves no {device.type} tensors"
    if error is not None:
        return error
    return importlib.import_module("ssg_kernels._C").cuda_unavailable(device.index or 0)
