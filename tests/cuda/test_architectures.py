"""Which architectures a build has: configured only, by CMake, with a wrapper of nvcc and a card that we make up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
CMAKE = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
NVCC = shutil.which("nvcc")

pytestmark = pytest.mark.skipif(not (CMAKE and NVCC), reason="cmake and nvcc are not installed")


def configure(
    folder: Path, refused: str, cuda: str, *options: str, cards: str = ""
) -> subprocess.CompletedProcess[str]:
    """Configures a build in `folder`, where nvcc refuses the architectures of a pattern of the shell.

    `cards` are the compute capabilities of the machine, with spaces between them.
    """
    driver = folder / "nvidia-smi"
    driver.write_text(f"#!/bin/sh\nprintf '%s\\n' {cards}\n" if cards else "#!/bin/sh\nexit 9\n")
    driver.chmod(0o755)
    wrapper = folder / "nvcc"
    wrapper.write_text(
        "#!/bin/sh\n"
        'for argument; do case "$argument" in\n'
        f"  *compute_{refused}*) echo nvcc fatal: unsupported architecture >&2; exit 1;;\n"
        "esac; done\n"
        f'exec {NVCC} "$@"\n'
    )
    wrapper.chmod(0o755)
    assert CMAKE is not None
    return subprocess.run(
        [
            *(CMAKE, "-S", ROOT, "-B", folder / "build"),
            f"-DCMAKE_CUDA_COMPILER={wrapper}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DSSG_TORCH_DIR={Path(torch.__file__).parent}",
            f"-DSSG_CUDA={cuda}",
            *options,
        ],
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_builds_for_the_architectures_that_it_knows(tmp_path: Path) -> None:
    done = configure(tmp_path, "1[02]0", "AUTO")
    assert done.returncode == 0, done.stderr
    assert "does not know 100-real;120-real;120-virtual" in done.stdout
    facts = json.loads((tmp_path / "build" / "_build.json").read_text())
    # PTX of the newest one, for the cards that it does not know.
    assert facts["cuda_architectures"] == "80-real 86-real 89-real 90-real 90-virtual"


@pytest.mark.parametrize(
    ("cuda", "cards", "built"),
    [
        ("AUTO", "9.0 8.6 9.0", "90-real 86-real"),
        ("AUTO", "", None),
        ("ON", "", "80-real 86-real 89-real 90-real 100-real 120-real 120-virtual"),
    ],
)
def test_a_development_build_is_for_the_cards_of_the_machine(
    tmp_path: Path, cuda: str, cards: str, built: str | None
) -> None:
    done = configure(tmp_path, "none", cuda, "-DSSG_CUDA_ARCHITECTURES=native", cards=cards)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "build" / "_build.json").read_text()).get("cuda_architectures") == built


def test_builds_without_the_kernels_where_it_knows_none(tmp_path: Path) -> None:
    done = configure(tmp_path, "", "AUTO")
    assert done.returncode == 0, done.stderr
    assert "cuda" not in json.loads((tmp_path / "build" / "_build.json").read_text())


def test_insisting_on_them_is_an_error(tmp_path: Path) -> None:
    done = configure(tmp_path, "1[02]0", "ON")
    assert done.returncode == 1
    sentence = " ".join(done.stderr.split())
    assert "does not know 100-real;120-real;120-virtual: take nvcc 12.8 or newer" in sentence
