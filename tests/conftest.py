"""Fixtures for all tests. Every test gets its own seed, poisoned allocations, and a backend if it asks for one."""

from __future__ import annotations

import importlib.util
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# For `bench` and `study`, which are folders of the repository. The path comes last, so that an installed ssg_kernels
# stays the one under test.
sys.path.append(str(Path(__file__).resolve().parents[1]))

_COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
# The default repeats the same examples. HYPOTHESIS_PROFILE=thorough tries more examples, and other ones in every run.
settings.register_profile("default", max_examples=100, derandomize=True, database=None, **_COMMON)
settings.register_profile("thorough", max_examples=5000, print_blob=True, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "unpoisoned: leave fresh allocations unfilled (sparse or very large tensors)"
    )


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> None:
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def _poison(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fills all that torch allocates, from C++ too, with NaN, so that an element that nobody wrote equals nothing."""
    if request.node.get_closest_marker("unpoisoned"):
        yield
        return
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    count = torch.get_num_threads()
    # A test that needs more threads asks for them. On a busy machine, two that wait for each other take ten times as
    # long as one.
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.fixture
def extension() -> None:
    """Skips the test if the compiled kernels were not built, or fails it under SSG_REQUIRE_EXTENSION=1."""
    if importlib.util.find_spec("ssg_kernels._C"):
        return
    if os.environ.get("SSG_REQUIRE_EXTENSION") == "1":
        pytest.fail("ssg_kernels._C is not built, and SSG_REQUIRE_EXTENSION=1 asks for it")
    pytest.skip("ssg_kernels._C is not built")


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test once on each backend that serves CPU tensors."""
    if request.param == "cpu":
        request.getfixturevalue("extension")
    monkeypatch.setenv("SSG_KERNELS_BACKEND", request.param)
    return request.param
