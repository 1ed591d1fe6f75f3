"""The compiled kernels, where they were built and can be loaded."""

from __future__ import annotations

import importlib

# Why the compiled kernels are not in use; None where they are.
error: str | None = None

try:
    importlib.import_module("ssg_kernels._C")
except ImportError as reason:
    error = str(reason)


def is_loaded() -> bool:
    """Whether the compiled kernels serve tensors on the CPU."""
    return error is None
