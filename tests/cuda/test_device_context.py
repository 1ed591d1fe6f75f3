"""Looking at a device creates no context on another one: the launcher on a runtime that the test has written."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("c++")
INCLUDE = Path("/usr/local/cuda/include")
if nvcc := shutil.which("nvcc"):
    dry = subprocess.run([nvcc, "--dryrun", "-c", "x.cu"], capture_output=True, text=True).stderr
    tops = [line.removeprefix("#$ TOP=") for line in dry.splitlines() if line.startswith("#$ TOP=")]
    INCLUDE = Path(tops[0], "include") if tops else INCLUDE


@pytest.mark.skipif(not COMPILER, reason="a C++ compiler is not installed")
@pytest.mark.skipif(
    not (INCLUDE / "cuda_runtime.h").is_file(), reason="the headers of CUDA are not installed"
)
def test_the_current_device_of_the_caller_stays(tmp_path: Path) -> None:
    program = tmp_path / "device_context"
    assert COMPILER is not None
    subprocess.run(
        [
            *(COMPILER, "-std=c++17", "-w", "-pthread", "-I", ROOT / "csrc", "-isystem", INCLUDE),
            *(
                "-static",
                "-Wl,--unresolved-symbols=ignore-all",
                "-x",
                "c++",
                ROOT / "tests/cpp/device_context.cpp",
            ),
            *("-o", program),
        ],
        check=True,
    )
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout == "other 1\n"
