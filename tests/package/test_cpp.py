"""examples/cpp: a program without Python that calls the operator and runs a package of AOTInductor."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ssg_kernels
from ssg_kernels import info

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cpp"
LIBRARY = Path(ssg_kernels.__file__).with_name("libssg_kernels.so")
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

pytestmark = [
    pytest.mark.usefixtures("extension"),
    pytest.mark.skipif(
        torch.version.cuda is not None, reason="find_package(Torch) would need CUDA's toolkit"
    ),
]


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)],
        env={**os.environ, "PATH": TOOLS, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not LIBRARY.exists():
        pytest.skip("libssg_kernels.so is not built")
    if not all(shutil.which(tool, path=TOOLS) for tool in ("cmake", "ninja", "c++")):
        pytest.skip("cmake, ninja and a C++ compiler are not all installed")
    build = tmp_path_factory.mktemp("cpp")
    prefixes = f"{torch.utils.cmake_prefix_path};{info.cmake_folder()}"
    for command in (
        ["cmake", "-S", EXAMPLE, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefixes}"],
        ["cmake", "--build", build],
    ):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "guide"


def test_its_results_are_those_of_python(program: Path, tmp_path: Path) -> None:
    exported = run(sys.executable, EXAMPLE / "export.py", tmp_path)
    assert exported.returncode == 0, exported.stderr
    done = run(program, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    results = tmp_path / "expected.bin"
    assert done.stdout == f"{results.stat().st_size} bytes of results, those of Python\n"
    results.write_bytes(results.read_bytes()[:-1] + b"\0")
    assert run(program, tmp_path).returncode == 1


def test_it_loads_no_python(program: Path) -> None:
    loaded = [line.split()[0] for line in run("ldd", program).stdout.splitlines()]
    assert "libssg_kernels.so" in loaded
    assert [name for name in loaded if "python" in name] == []
    assert not re.search(r" _?Py", run("nm", "-D", program).stdout)
    assert not re.search(r" _?Py", run("nm", "-D", LIBRARY).stdout)


def test_an_unknown_argument_gives_the_same_sentence(program: Path) -> None:
    assert run(program, "--prior", "dse").stdout == "6\n"
    done = run(program, "--prior", "x'y")
    ones = torch.ones(1, 4, 1), torch.ones(1, 1, 1)
    with pytest.raises(RuntimeError) as caught:
        ssg_kernels.guided_logits(*ones, (2, 2), (1, 1), 1.0, "x'y")
    assert (done.returncode, done.stderr) == (1, f"{caught.value}\n")


@pytest.mark.parametrize("backend", ["triton", "cuda", "x"])
def test_a_backend_that_cannot_serve_gives_a_sentence(
    program: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    done = run(program, "--prior", "dse", SSG_KERNELS_BACKEND=backend)
    monkeypatch.setenv("SSG_KERNELS_BACKEND", backend)
    with pytest.raises((ValueError, RuntimeError)) as caught:
        ssg_kernels.guided_logits(torch.ones(1, 4, 1), torch.ones(1, 1, 1), (2, 2), (1, 1), 1.0)
    sentence = str(caught.value)
    if backend == "triton":
        reason = "it needs Python, which has not loaded ssg_kernels here"
        sentence = f"{sentence.partition(': ')[0]}: {reason}"
    assert (done.returncode, done.stderr) == (1, f"{sentence}\n")
