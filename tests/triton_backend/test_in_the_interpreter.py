"""Runs the tests of the interpreted kernels in a process in which Triton interprets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_in_the_interpreter() -> None:
    folder = Path(__file__).parent
    arguments = ("-q", "-p", "no:cacheprovider", "--durations=10", str(folder))
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=folder.parents[1],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
