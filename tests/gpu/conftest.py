"""Fixtures of the GPU's tests, which run on each backend that serves the device.

SSG_TEST_DEVICE=cpu tries out the tests themselves: those that can run on the CPU kernel do. SSG_TEST_BACKENDS names the
backends to test, separated by commas. Those in SSG_REQUIRE_BACKENDS must be usable: a test that would skip one of them
fails instead. SSG_TEST_REPORT names a file that gets a line for each test when it ends, so that it is complete even if
the run is killed.
"""

from __future__ import annotations

import os

import pytest
import torch

from ssg_kernels._torch import backends

DEVICE = torch.device(os.environ.get("SSG_TEST_DEVICE", "cuda"))


def _names(variable: str) -> tuple[str, ...]:
    return tuple(name for name in os.environ.get(variable, "").split(",") if name)


BACKENDS = _names("SSG_TEST_BACKENDS") or (("cpu",) if DEVICE.type == "cpu" else ("cuda", "triton"))
REQUIRED = _names("SSG_REQUIRE_BACKENDS")


class Report:
    """A line for each test: its outcome, or "unfinished" while it runs."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115, until the session ends

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._line = self._file.tell()
        self._write(f"unfinished {nodeid}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self._file.seek(self._line)
            self._file.truncate()
            self._write(f"{report.outcome} {report.nodeid} {report.duration:.1f} s")
            if report.failed:
                self._line = self._file.tell()  # a test may also fail when it is torn down

    def _write(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()


def pytest_configure(config: pytest.Config) -> None:
    if path := os.environ.get("SSG_TEST_REPORT"):
        config.pluginmanager.register(Report(path))


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
