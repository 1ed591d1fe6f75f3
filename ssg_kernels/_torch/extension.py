"""The compiled kernels, where they were built and can be loaded."""

from __future__ import annotations

import importlib

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


def cuda_error(device: torch.device) -> str | None:
    """Why the CUDA kernels cannot serve tensors on `device`; None where they can."""
    if device.type != "cuda":
        return f"it serves no {device.type} tensors"
    if error is not None:
        return error
    return importlib.import_module("ssg_kernels._C").cuda_unavailable(device.index or 0)
