"""Fixtures of the GPU's tests, which run on each backend that serves the device.

SSG_TEST_DEVICE=cpu tries out the tests themselves: those that can run on the CPU kernel do. SSG_REQUIRE_BACKENDS names
backends, separated by commas, that must be usable: a test that would skip one of them fails instead.
"""

from __future__ import annotations

import os

import pytest
import torch

from ssg_kernels._torch import backends

DEVICE = torch.device(os.environ.get("SSG_TEST_DEVICE", "cuda"))
BACKENDS = ("cpu",) if DEVICE.type == "cpu" else ("cuda", "triton")
REQUIRED = [name for name in os.environ.get("SSG_REQUIRE_BACKENDS", "").split(",") if name]


def _skip(name: str, reason: str) -> None:
    if name in REQUIRED:
        pytest.fail(f"{name} is required: {reason}")
    pytest.skip(f"{name}: {reason}")


@pytest.fixture
def device() -> torch.device:
    if DEVICE.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return DEVICE


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The device, for tests of what only a GPU has: streams, graphs, its allocator."""
    if device.type != "cuda":
        pytest.skip("for a GPU only")
    return device


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, device: torch.device) -> str:
    reason = backends.unavailable(request.param, device)
    if reason is not None:
        _skip(request.param, reason)
    monkeypatch.setenv("SSG_KERNELS_BACKEND", request.param)
    return request.param
