"""The Triton backend: one pass over the logits on NVIDIA and AMD GPUs, or on the CPU in Triton's interpreter.

The first call imports Triton; importing ssg_kernels does not.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssg_kernels._call import GuidedCall, Options, Strength


def unavailable(device: torch.device) -> str | None:
    """Why Triton cannot serve tensors on `device`, or None if it can."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return _unavailable(device.type, interpreted)


@functools.cache
def _unavailable(device_type: str, interpreted: bool) -> str | None:
    if device_type not in ("cpu", "cuda"):
        return f"the Triton kernels are for CUDA and ROCm devices, not {device_type}"
    if device_type == "cpu" and not interpreted:
        return "Triton serves CPU tensors only in its interpreter, under TRITON_INTERPRET=1"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    if device_type == "cuda":
        try:
            importlib.import_module("triton").runtime.driver.active.get_current_target()
        except Exception as reason:  # a missing or unsuitable driver may raise anything
            advice = ": install one, or name it with CC" if "compiler" in str(reason).lower() else ""
            return f"triton finds no usable GPU driver: {reason}{advice}"
    return None


def guided(call: GuidedCall) -> Tensor:
    """Computes `guided_logits` or `guided_logits_cfg` of checked arguments. `call.out` may be the logits themselves."""
    return _launch().guided(call)


def prior_linear(
    x: Tensor, scale: Tensor, size: Sequence[int], prev_size: Sequence[int], options: Options, transpose: bool
) -> Tensor:
    """scale * P x, which takes (B, L', V) to (B, L, V), or with `transpose` scale * P^T x."""
    return _launch().linear(x, scale, size, prev_size, options, transpose)


def sample(logits: Tensor, uniform: Tensor, scale: Strength, top_k: int | Tensor, top_p: Strength) -> Tensor:
    """Computes `ssg::_sample_tempered` of checked arguments. A row that has no answer gives -1."""
    return _launch().sample(logits, uniform, scale, top_k, top_p)


@functools.cache
def _launch() -> Any:
    return importlib.import_module("ssg_kernels._triton.launch")
