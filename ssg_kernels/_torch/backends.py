"""Which backend computes a call that no compiled kernel serves, and why a backend cannot."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterator
from types import ModuleType

import torch

from ssg_kernels._names import BACKENDS
from ssg_kernels._torch import extension

# The backend that serves a family of GPUs, the major number of their compute capability, where both can: the one with
# the smaller times by executed counts, for guidance and sampling together (docs/triton.md). Nobody has measured yet;
# newer families go with the last one.
FIRST = {8: "cuda", 9: "cuda", 10: "cuda", 12: "cuda"}


def first(family: int) -> str:
    """ "cuda" or "triton": which of them serves a family of GPUs where both can."""
    return FIRST[max((known for known in FIRST if known <= family), default=min(FIRST))]


def families_of_triton() -> list[int]:
    """The families whose tensors the compiled kernels leave to Triton."""
    usable = torch.version.hip is None and importlib.util.find_spec("triton") is not None
    return [family for family in range(8, 32) if usable and first(family) == "triton"]


def forced() -> str | None:
    """The backend that SSG_KERNELS_BACKEND asks for."""
    return os.environ.get("SSG_KERNELS_BACKEND") or None


@contextlib.contextmanager
def forcing(name: str) -> Iterator[None]:
    """Sets SSG_KERNELS_BACKEND to `name` inside the context."""
    before = os.environ.get("SSG_KERNELS_BACKEND")
    os.environ["SSG_KERNELS_BACKEND"] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ["SSG_KERNELS_BACKEND"]
        else:
            os.environ["SSG_KERNELS_BACKEND"] = before


def unavailable(name: str, device: torch.device) -> str | None:
    """Why the backend cannot serve tensors on `device`; None where it can."""
    if name == "triton":
        return triton().unavailable(device)
    if name == "cpu":
        return extension.error if device.type == "cpu" else f"it serves no {device.type} tensors"
    if name == "cuda":
        return extension.cuda_error(device)
    return None


def resolve(device: torch.device) -> str:
    """ "triton" or "reference": the backend that computes on `device` where no compiled kernel does.

    "cuda" if Triton came first on this card and turned out to be unusable: the operator then serves the call itself.

    Raises ValueError where SSG_KERNELS_BACKEND names no backend, or one that cannot serve the device.
    """
    name = forced()
    if name is None:
        return _best(device)
    if name not in BACKENDS:
        raise ValueError(f"SSG_KERNELS_BACKEND must be one of {', '.join(BACKENDS)}, got {name!r}")
    reason = unavailable(name, device)
    if name in ("cpu", "cuda") or reason is not None:
        why = f": {reason}" if reason else ""
        raise ValueError(f"SSG_KERNELS_BACKEND={name} cannot serve tensors on {device}{why}")
    return name


def _best(device: torch.device) -> str:
    if device.type == "cpu":
        return "reference"
    reason = triton().unavailable(device)
    if reason is None:
        return "triton"
    if device.type == "cuda" and extension.cuda_error(device) is None:
        extension.take_the_rest()
        return "cuda"
    _warn_of_the_reference(device.type, reason)
    return "reference"


def triton() -> ModuleType:
    """The Triton backend. It is imported on first use, so that importing ssg_kernels stays fast."""
    return importlib.import_module("ssg_kernels._triton")


@functools.cache
def _warn_of_the_reference(device_type: str, reason: str) -> None:
    warnings.warn(
        f"ssg_kernels has no kernel for these {device_type} tensors ({reason}): the reference computes them",
        stacklevel=2,
    )
