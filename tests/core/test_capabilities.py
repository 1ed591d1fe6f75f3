"""The kernels of the narrower instruction sets, which the widest one hides on most machines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PARITY = (
    "test_any_call or test_every_vocabulary or test_every_half_precision_number or test_masked_logits "
    "or test_outputs_larger"
)


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("capability", ["avx2", "baseline"])
def test_parity_on(capability: str) -> None:
    root = Path(__file__).parents[2]
    # The instruction set is chosen once per process.
    environment = {**os.environ, "SSG_KERNELS_CPU_CAPABILITY": capability}

    def run(*arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    chosen = run("-c", "import ssg_kernels._C as kernels; print(kernels.cpu_capability())").strip()
    if chosen != capability:
        pytest.skip(f"this processor runs {chosen}")
    run(
        *(
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/ops/test_guided_logits.py",
            "tests/sampling/test_sample.py",
        ),
        *("-k", f"not reference and ({PARITY})"),
    )
