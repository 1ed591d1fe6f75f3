"""Which backend computes a call that no compiled kernel takes, and why one cannot."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from types import ModuleType

import torch
from torch import Tensor

from ssg_kernels import _extension

NAMES = ("reference", "cpu", "triton", "cuda")


def forced() -> str | None:
    """The backend that SSG_KERNELS_BACKEND asks for."""
    return os.environ.get("SSG_KERNELS_BACKEND") or None


def problem(x: Tensor) -> str:
    """Why SSG_KERNELS_BACKEND forbids that Python computes a call on `x`; empty where it does not."""
    name = forced()
    if name is None or name == "reference":
        return ""
    if name not in NAMES:
        return f"SSG_KERNELS_BACKEND must be one of {', '.join(NAMES)}, got {name!r}"
    reason = unavailable(name, x.device)
    if name == "triton" and reason is None:
        return ""
    return f"SSG_KERNELS_BACKEND={name} cannot serve tensors on {x.device}" + (
        f": {reason}" if reason else ""
    )


def unavailable(name: str, device: torch.device) -> str | None:
    """Why the backend cannot serve tensors on `device`; None where it can."""
    if name == "triton":
        return triton().unavailable(device)
    if name == "cpu":
        return _extension.error if device.type == "cpu" else f"it serves no {device.type} tensors"
    if name == "cuda":
        return _extension.cuda_error(device)
    return None


def triton() -> ModuleType:
    """The Triton backend, imported when it is first asked for: importing torch's users must stay lean."""
    return importlib.import_module("ssg_kernels._triton")


def uses_triton(x: Tensor) -> bool:
    """Whether Triton computes on `x`, or else the reference. Raises ValueError where neither is allowed to."""
    if error := problem(x):
        raise ValueError(error)
    name = forced()
    if name is not None:
        return name == "triton"
    if x.device.type == "cpu":
        return False
    reason = triton().unavailable(x.device)
    if reason is not None:
        _warn_of_the_reference(x.device.type, reason)
    return reason is None


@functools.cache
def _warn_of_the_reference(device_type: str, reason: str) -> None:
    warnings.warn(
        f"ssg_kernels has no kernel for these {device_type} tensors ({reason}): the reference computes them",
        stacklevel=2,
    )
