"""The package: how it is built, installed, imported and started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch

import ssg_kernels
from ssg_kernels import info, tour
from ssg_kernels.__main__ import main
from ssg_kernels._torch import extension

ROOT = Path(__file__).resolve().parents[2]
BUILD_WHEEL = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"


def run(
    *command: str | Path, cwd: Path = ROOT, **environment: str | None
) -> subprocess.CompletedProcess[str]:
    """Runs a command and returns the finished process. None removes a variable from its environment."""
    changed = {**os.environ, **environment}
    kept = {name: value for name, value in changed.items() if value is not None}
    return subprocess.run(
        [*map(str, command)], cwd=cwd, env=kept, capture_output=True, text=True, timeout=300
    )


def python(code: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-c", code, **environment)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the sources, so that a build leaves nothing in this tree. It has `study`, which no wheel may have."""
    copy = tmp_path / "source"
    skip = shutil.ignore_patterns("*.so", "_build.json", "__pycache__", "*.egg-info")
    for folder in ("ssg_kernels", "csrc", "python", "study"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=skip)
    for name in ("CMakeLists.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def wheel_names(source: Path, built: subprocess.CompletedProcess[str]) -> tuple[str, set[str]]:
    assert built.returncode == 0, built.stderr
    name = built.stdout.splitlines()[-1]
    with zipfile.ZipFile(source / "dist" / name) as wheel:
        return name, set(wheel.namelist())


def test_import_is_lean() -> None:
    """The import loads nothing but the standard library beyond torch, and does not touch a GPU."""
    done = python(
        "import sys, torch\n"
        "def refuse(*_): raise AssertionError('a GPU was touched')\n"
        "torch.cuda._lazy_init = torch.cuda.is_available = torch.cuda.device_count = refuse\n"
        "before = set(sys.modules)\n"
        "import ssg_kernels\n"
        "heavy = {'torch._dynamo', 'torch._inductor', 'torch.onnx', 'torch.testing'} - before\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "print(sorted({n.partition('.')[0] for n in set(sys.modules) - before} - sys.stdlib_module_names))\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    heavy, added = done.stdout.splitlines()
    assert heavy == "[]"
    assert added in ("['ssg_kernels']", "['ssg_kernels', 'torch']")


def test_the_integrations_import_nothing_of_upstream() -> None:
    done = python(
        "import sys, ssg_kernels\n"
        "assert not [name for name in sys.modules if name.startswith('ssg_kernels.integrations')]\n"
        "before = set(sys.modules)\n"
        "from ssg_kernels import integrations\n"
        "added = {name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names\n"
        "assert added == {'ssg_kernels'}, added\n"
        "print(*(name for name in integrations.__all__ if hasattr(getattr(integrations, name), 'attach')))\n"
    )
    modules = "aar code grn hart hmar infinity infinitystar lsrs mvar "
    modules += "sar3d skipvar switti tokenflow var vargpt vq_diffusion"
    assert done.stdout.split() == modules.split(), done.stderr


def test_info_names_versions_and_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert re.search(rf"^ssg-kernels +{re.escape(ssg_kernels.__version__)} ", text, re.M)
    assert re.search(rf"^torch +{re.escape(torch.__version__)}, ", text, re.M)
    assert [b.name for b in info.backends()] == ["reference", "cpu", "triton", "cuda"]
    for backend in info.backends():
        assert re.search(rf"^  {backend.name} +(not )?usable +{re.escape(backend.note)}$", text, re.M)


@pytest.mark.parametrize("command", ["info", "info --plan 16x16 13x13"])
def test_a_reader_that_leaves_is_no_error(command: str) -> None:
    arguments = [sys.executable, "-m", "ssg_kernels", *command.split()]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.usefixtures("extension")
def test_info_of_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = info.build()
    assert facts is not None
    capability = info.backends()[1].note.rpartition(" ")[2]
    assert capability in facts["cpu_targets"].split()
    assert "CPU tensors are served by: cpu" in info.report()
    assert ("\nCUDA " in info.report()) == ("cuda" in facts)
    monkeypatch.setattr(
        info, "build", lambda: {**facts, "cuda": "13.0.88", "cuda_architectures": "90-real 120-virtual"}
    )
    assert re.search(r"^CUDA +nvcc 13\.0\.88: sm_90-real, sm_120-virtual$", info.report(), re.M)
    monkeypatch.setenv("SSG_KERNELS_BACKEND", "reference")
    assert "SSG_KERNELS_BACKEND is 'reference'" in info.report()
    monkeypatch.setattr(extension, "error", "undefined symbol: torch_new")
    cpu = info.backends()[1]
    assert not cpu.usable
    assert cpu.note == "built for torch 2.10 and newer, but not loaded: undefined symbol: torch_new"


def test_info_of_the_pure_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "error", "No module named 'ssg_kernels._C'")
    monkeypatch.setattr(info, "build", lambda: None)
    monkeypatch.delenv("SSG_KERNELS_BACKEND", raising=False)
    cpu = info.backends()[1]
    assert not cpu.usable
    assert "pure-Python package" in cpu.note
    assert "CPU tensors are served by: reference" in info.report()


def test_tour_runs_every_scale() -> None:
    options = (
        "--vocabulary 8 --batch 2 --repeats 1 --beta 1 --prior dse_zero_pad --interpolation area --rescale"
    )
    done = run(sys.executable, "-m", "ssg_kernels", "tour", *options.split())
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^ +\d+ +(\d+)x\1 ", done.stdout, re.M) == [str(n) for n in tour.SCALES]
    assert "prior dse_zero_pad, rescaled, area; beta 1, decaying linearly" in done.stdout
    assert "agree with the reference" in done.stdout


def test_tour_fails_on_a_wrong_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wrong(ssg_kernels.SSG):
        def __call__(self, *args: object, **kwargs: object) -> torch.Tensor:
            return super().__call__(*args, **kwargs) * (1 + 1e-5)  # type: ignore[arg-type]

    monkeypatch.setattr(tour, "SSG", Wrong)
    assert tour.run(tour.Options(vocabulary=8, repeats=1)) == 1
    assert "The guided logits are wrong" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("--prior", "x", "argument --prior: invalid choice: 'x' (choose from"),
        ("--batch", "0", "argument --batch: must be at least 1, got 0"),
        ("--beta", "x", "argument --beta: invalid float value: 'x'"),
    ],
)
def test_tour_refuses(argument: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["tour", argument, value])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("backend", "error"),
    [
        ("reference", None),
        ("triton", "SSG_KERNELS_BACKEND=triton cannot serve tensors on cpu"),
        ("x", "SSG_KERNELS_BACKEND must be one of reference, cpu, triton, cuda, got 'x'"),
    ],
)
def test_backend_is_read_from_the_environment(backend: str, error: str | None) -> None:
    done = python(
        "import torch, ssg_kernels\n"
        "print(ssg_kernels.guided_logits(torch.ones(1, 4, 1), torch.ones(1, 1, 1), (2, 2), (1, 1), 1.0).tolist())",
        SSG_KERNELS_BACKEND=backend,
    )
    if error is None:
        assert (
            done.stdout == "[[[1.5], [1.5], [1.5], [1.5]]]\n"
        )  # the prior is sqrt(1/4), verbatim as in the paper
    else:
        assert done.returncode == 1
        assert error in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("extension")
def test_the_library_is_bound_to_no_torch_and_needs_no_python() -> None:
    binary = Path(ssg_kernels.__file__).with_name("libssg_kernels.so")
    assert str(Path(torch.__file__).parent).encode() not in binary.read_bytes()
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    symbols = run("nm", "-D", binary).stdout.splitlines()
    undefined = [line.split()[-1] for line in symbols if line.split()[-2] in "UwvV"]
    assert any(name.startswith("aoti_torch_") for name in undefined)
    assert [name for name in undefined if re.match(r"_ZN?K?(3c10|2at|5torch)", name)] == []
    assert [name for name in undefined if name.startswith(("Py", "_Py"))] == []
    functions = [line.split()[-1] for line in symbols if line.split()[-2] == "T"]
    assert [name for name in functions if not name.startswith(("_init", "_fini", "_ZN3ssg3ops"))] == []


@pytest.mark.usefixtures("extension")
def test_the_folder_for_cmake(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["info", "--cmake-dir"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert (folder / "ssg_kernels-config.cmake").is_file()
    assert f'"{ssg_kernels.__version__}"' in (folder / "ssg_kernels-config-version.cmake").read_text()
    monkeypatch.setattr(info, "build", lambda: None)
    assert main(["info", "--cmake-dir"]) == 2
    assert "the pure-Python package has no library" in capsys.readouterr().err


def test_pure_wheel(source: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    (source / "ssg_kernels" / "_C.abi3.so").touch()
    (source / "ssg_kernels" / "_build.json").touch()
    built = run(sys.executable, "-c", BUILD_WHEEL, cwd=source, SSG_BUILD_EXT="0")
    name, files = wheel_names(source, built)
    assert name == f"ssg_kernels-{ssg_kernels.__version__}-py3-none-any.whl"
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ssg_kernels").rglob("*.py")}
    weights = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ssg_kernels/demo/weights").iterdir()}
    assert not [file for file in files if file.startswith("study") or "/study" in file]
    assert {file for file in files if ".dist-info/" not in file} == modules | weights | {
        "ssg_kernels/py.typed"
    }


def test_without_a_compiler_the_wheel_is_pure_and_says_so(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    tools = {"CXX": None, "SSG_BUILD_EXT": None, "PATH": str(tmp_path)}
    built = run(sys.executable, "-c", BUILD_WHEEL, cwd=source, **tools)
    assert wheel_names(source, built)[0].endswith("-py3-none-any.whl")
    assert len(re.findall("no C\\+\\+ compiler found", built.stderr)) == 1


def test_a_compiler_that_fails_is_an_error(source: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    pytest.importorskip("cmake")
    pytest.importorskip("ninja")
    broken = source / "broken-c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    built = run(
        sys.executable, "-c", BUILD_WHEEL, cwd=source, CXX=str(broken), SSG_BUILD_EXT=None, CMAKE_ARGS=None
    )
    assert built.returncode == 1
    assert built.stderr.splitlines()[-1].startswith("ssg-kernels: the build failed, see above")
    assert not (source / "dist").exists() or not list((source / "dist").glob("*.whl"))


def test_without_torch_one_sentence_says_what_to_do(source: Path, tmp_path: Path) -> None:
    installed = Path(pytest.importorskip("setuptools", minversion="77").__file__).parent.parent
    bare = tmp_path / "bare"
    venv.create(bare)
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("setuptools", "_distutils_hack"):
        (packages / name).symlink_to(installed / name)
    built = run(
        *(bare / "bin" / "python", "-c", BUILD_WHEEL),
        cwd=source,
        PYTHONPATH=str(packages),
        HOME=str(tmp_path),
        SSG_BUILD_EXT="1",
    )
    assert built.returncode == 1
    (sentence,) = built.stderr.splitlines()
    assert sentence.startswith(
        "ssg-kernels compiles against the headers of your torch and found none: run `pip install torch`"
    )


@pytest.mark.parametrize("page", ["README.md", "docs/usage.md"])
def test_the_code_of_a_page_runs(page: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def test_the_links_of_the_readme_exist() -> None:
    """The build of the pages checks the links of docs/."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert "docs/index.md" in links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_changelog_names_this_version() -> None:
    assert f"## [{ssg_kernels.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
