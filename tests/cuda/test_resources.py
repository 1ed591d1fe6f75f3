"""What nvcc made of the CUDA kernels, read from the built extension: resources and instructions, per architecture.

Skips where the extension was built without CUDA; fails there under SSG_REQUIRE_CUDA=1, which also asks for every
architecture of the default build.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from support.packed import load_host

import ssg_kernels
from ssg_kernels.info import build

LIBRARY = Path(ssg_kernels.__file__).with_name("libssg_kernels.so")
REQUIRED = os.environ.get("SSG_REQUIRE_CUDA") == "1"
FACTS = build() or {}
TARGETS = FACTS.get("cuda_architectures", "").split()
BUILT = [int(target.removesuffix("-real")) for target in TARGETS if target.endswith("-real")]
SUPPORTED = (80, 86, 89, 90, 100, 120)

# Storage types by their mangled names.
STORAGES = {"float": "f", "double": "d", "BFloat16": "NS0_8BFloat16E", "Float16": "NS0_7Float16E"}
# Threads that a multiprocessor's 65536 registers must suffice for: the plan's 16 warps (8 for the largest maps of the
# MMA engine), and what the others' launch bounds say (fewer in `_threads`).
THREADS = {
    "guided_logits_kernel": 16 * 32,
    "guided_logits_direct_kernel": 2 * 256,
    "sample_block_kernel": 4 * 128,
    "sample_long_kernel": 4 * 256,
    "sample_few_kernel": 4 * 128,
}


def _skip_or_fail(reason: str) -> None:
    if REQUIRED:
        pytest.fail(f"{reason}, and SSG_REQUIRE_CUDA=1 asks for it")
    pytest.skip(reason)


def _cuobjdump() -> tuple[str, Path]:
    """The program, and the folder of nvdisasm, which it calls: from the toolkit, or Triton's own."""
    folders = []
    if nvcc := shutil.which("nvcc"):
        folders.append(Path(nvcc).resolve().parent)
    if home := os.environ.get("CUDA_HOME"):
        folders.append(Path(home, "bin"))
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.submodule_search_locations:
        folders.append(Path(triton.submodule_search_locations[0], "backends/nvidia/bin"))
    for folder in folders:
        if all((folder / name).is_file() for name in ("cuobjdump", "nvdisasm")):
            return str(folder / "cuobjdump"), folder
    _skip_or_fail("no cuobjdump with nvdisasm beside it, neither in the CUDA toolkit nor in Triton")
    raise AssertionError


def _dump(*options: str) -> str:
    program, folder = _cuobjdump()
    path = os.pathsep.join([str(folder), os.environ.get("PATH", "")])
    return subprocess.run(
        [program, *options, LIBRARY],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path},
    ).stdout


def _by_kernel(text: str, architecture: int) -> dict[str, str]:
    """The report on each kernel, by its mangled name without the part that differs between builds."""
    found: dict[str, str] = {}
    for part in re.split(r"^Fatbin elf code:$", text, flags=re.M):
        if f"arch = sm_{architecture}\n" not in part:
            continue
        for function in re.split(r"^\s*Function\s*:?\s*", part, flags=re.M)[1:]:
            name, _, report = function.partition("\n")
            found[re.sub(r"\d+_GLOBAL__N__\w+?_cu_[0-9a-f]{8}", "", name.rstrip(":"))] = report
    return found


@functools.cache
def resources(architecture: int) -> dict[str, dict[str, int]]:
    reports = _by_kernel(_dump("-res-usage"), architecture)
    return {
        name: {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}
        for name, report in reports.items()
    }


@functools.cache
def instructions(architecture: int) -> dict[str, Counter[str]]:
    reports = _by_kernel(_dump("-sass", "-arch", f"sm_{architecture}"), architecture)
    operation = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?([A-Z][A-Z0-9_.]*)", re.M)
    return {name: Counter(operation.findall(report)) for name, report in reports.items()}


@pytest.fixture(params=SUPPORTED)
def architecture(request: pytest.FixtureRequest) -> int:
    if "cuda" not in FACTS:
        _skip_or_fail("the extension was built without CUDA")
    if request.param not in BUILT:
        _skip_or_fail(f"the extension was built without sm_{request.param}")
    return request.param


def _kernel(name: str) -> str:
    return next(kernel for kernel in THREADS if f"{len(kernel)}{kernel}I" in name)


def _storage(name: str) -> str:
    return next(
        s for s, mangled in STORAGES.items() if re.search(rf"(Dense|Guided|Tensor|kernel)I{mangled}", name)
    )


def _threads(name: str) -> int:
    if "5ShapeILi48E" in name:
        return 8 * 32
    if _kernel(name) == "sample_block_kernel" and _storage(name) == "double":
        return 3 * 128
    return THREADS[_kernel(name)]


def test_every_kernel_is_there(architecture: int) -> None:
    found = Counter(
        (_storage(name), _kernel(name), "mma" if "6TensorI" in name else "")
        for name in resources(architecture)
    )
    # One instance for two columns, one for up to eight.
    assert all(found.pop((storage, "sample_few_kernel", "")) == 2 for storage in STORAGES)
    expected: Counter[tuple[str, str, str]] = Counter()
    for storage in STORAGES:
        expected += Counter(
            {
                (storage, kernel, ""): 1
                for kernel in THREADS
                if kernel not in ("guided_logits_kernel", "sample_few_kernel")
            }
        )
        for engine, columns, *_ in load_host().cuda_tiles:
            # A tile of the MMA engine for 16-bit logits of one source, and one for all others.
            if engine == "mma":
                one_part = 0 if storage == "float" else 1
                expected[storage, "guided_logits_kernel", "mma"] += (
                    0 if storage == "double" else one_part + int(columns < 8)
                )
            else:
                expected[storage, "guided_logits_kernel", ""] += 1
    assert found == +expected


def test_nothing_spills_and_the_planned_blocks_fit(architecture: int) -> None:
    for name, used in resources(architecture).items():
        assert used["STACK"] == used["LOCAL"] == 0, name
        assert used["REG"] * _threads(name) <= 65536, name


def test_instructions_are_those_of_the_engine(architecture: int) -> None:
    for name, found in instructions(architecture).items():
        operations = {operation.split(".")[0] for operation in found}
        assert not operations & {"LDL", "STL"}, name
        tensor = {operation for operation in found if operation.startswith(("HMMA.", "DMMA", "IMMA"))}
        if "6TensorI" in name:
            # In float16 with float32 sums; the smaller shape splits.
            assert tensor == {"HMMA.16816.F32", "HMMA.1688.F32"}, name
        else:
            assert not tensor, name
        if _kernel(name) == "guided_logits_kernel":
            assert operations & {"FFMA", "FFMA2", "DFMA"}, name
            loads = "LDSM" if "6TensorI" in name else "LDGSTS" if "6GuidedI" in name else "LDS"
            assert any(operation.startswith(loads) for operation in found), name
        if _kernel(name).startswith("sample"):
            assert "FMUL" in operations or _storage(name) == "double", name
            assert not operations & {"FFMA", "DFMA"}, f"{name} fuses what csrc/weight.h rounds twice"


def test_newer_gpus_find_ptx() -> None:
    if "cuda" not in FACTS:
        _skip_or_fail("the extension was built without CUDA")
    virtual = [target.removesuffix("-virtual") for target in TARGETS if target.endswith("-virtual")]
    if not virtual:
        _skip_or_fail("the extension was built without PTX")
    listed = _dump("-lptx")
    assert all(f"sm_{target}" in listed for target in virtual), listed
