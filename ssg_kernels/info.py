"""`python -m ssg_kernels info`: prints versions, and which backends are usable here, or why they are not."""

from __future__ import annotations

import importlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ssg_kernels._torch import backends as resolution
from ssg_kernels._torch import extension, internals
from ssg_kernels._triton import plan as triton_plan
from ssg_kernels._triton import targets
from ssg_kernels._triton.step import Step
from ssg_kernels._version import __version__


class Backend(NamedTuple):
    name: str
    usable: bool
    note: str


def build() -> dict[str, str] | None:
    """The facts that the extension's build wrote beside it; None for the pure-Python package."""
    facts = Path(__file__).with_name("_build.json")
    return json.loads(facts.read_text(encoding="utf-8")) if facts.is_file() else None


def cmake_folder() -> Path | None:
    """The folder for `find_package(ssg_kernels CONFIG)` of CMake; None for the pure-Python package."""
    return None if build() is None else Path(__file__).with_name("cmake")


def backends() -> list[Backend]:
    """Every value of SSG_KERNELS_BACKEND, whether it is usable here, and if not, why."""
    return [
        Backend("reference", True, "plain PyTorch, every device"),
        _cpu_backend(),
        _gpu_backend("triton", "Triton kernels"),
        _gpu_backend("cuda", "CUDA C++ kernels"),
    ]


def _cpu_backend() -> Backend:
    facts = build()
    if extension.is_loaded():
        capability = importlib.import_module("ssg_kernels._C").cpu_capability()
        return Backend("cpu", True, f"C++ kernels for {capability}")
    if facts is None:
        why = "the pure-Python package is installed; with a C++ compiler, `pip install` builds the kernels"
    else:
        why = f"built for torch {facts['torch_floor']} and newer, but not loaded: {extension.error}"
    return Backend("cpu", False, why)


def _gpu_backend(name: str, kernels: str) -> Backend:
    device = (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cuda")
    )
    reason = resolution.unavailable(name, device)
    if reason is not None:
        return Backend(name, False, reason)
    major, minor = torch.cuda.get_device_capability(device)
    return Backend(name, True, f"{kernels} for {torch.cuda.get_device_name(device)} ({major}.{minor})")


def _gpu_order() -> tuple[str, ...]:
    """The backends of the current GPU. The front one has the smaller times by executed counts."""
    family = torch.cuda.get_device_capability()[0]
    is_triton = family in resolution.families_of_triton()
    return ("triton", "cuda", "reference") if is_triton else ("cuda", "triton", "reference")


def _served_by() -> dict[str, str]:
    """The backend of each kind of device."""
    usable = {backend.name for backend in backends() if backend.usable}
    orders: dict[str, tuple[str, ...]] = {"cpu": ("cpu", "reference")}
    if torch.cuda.is_available():
        orders["cuda"] = _gpu_order()
    return {device: next(name for name in order if name in usable) for device, order in orders.items()}


def _system() -> str:
    return f"{platform.system()} {platform.machine()} {' '.join(platform.libc_ver())}".rstrip()


def facts() -> dict[str, Any]:
    """What `info` says, for programs: `python -m ssg_kernels info --json`."""
    return {
        "ssg_kernels": {"version": __version__, "path": str(Path(__file__).parent)},
        "cmake_dir": str(cmake_folder() or "") or None,
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
        },
        "system": _system(),
        "torch": {
            "version": torch.__version__,
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "threads": torch.get_num_threads(),
        },
        "gpus": _gpus(),
        "build": build(),
        "backends": [backend._asdict() for backend in backends()],
        "forced_backend": resolution.forced(),
        "served_by": _served_by(),
        "torch_cannot": internals.missing(),
    }


def _gpus() -> list[dict[str, str]]:
    if not torch.cuda.is_available():
        return []
    return [
        {
            "name": torch.cuda.get_device_name(index),
            "capability": "{}.{}".format(*torch.cuda.get_device_capability(index)),
        }
        for index in range(torch.cuda.device_count())
    ]


def versions() -> list[str]:
    """Which package, Python and torch this is: the first lines of `info` and of `selftest`."""
    python = f"{platform.python_version()} {platform.python_implementation()}, {_system()}"
    return [
        _row("ssg-kernels", f"{__version__} ({Path(__file__).parent})"),
        _row("python", python),
        _row("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
    ]


def _build_rows() -> list[str]:
    facts = build()
    if facts is None:
        return []
    commit = f", commit {facts['commit']}" if facts["commit"] else ""
    rows = [
        _row("built with", f"{facts['compiler']}, torch {facts['torch_headers']} headers{commit}"),
        _row(
            "built for",
            f"torch {facts['torch_floor']} and newer; {facts['system']}: {facts['cpu_targets']}",
        ),
        _row("flags", facts["flags"]),
    ]
    if "cuda" in facts:
        architectures = facts["cuda_architectures"].replace(" ", ", sm_")
        rows.append(_row("CUDA", f"nvcc {facts['cuda']}: sm_{architectures}"))
    return rows


def _row(name: str, value: str) -> str:
    return f"{name:<12} {value}"


def report() -> str:
    """The text of `python -m ssg_kernels info`."""
    lines = [*versions(), *_build_rows(), "", "backends"]
    for backend in backends():
        lines.append(
            f"  {backend.name:<10} {'usable' if backend.usable else 'not usable':<11} {backend.note}"
        )
    lines.append("")
    if forced := resolution.forced():
        lines.append(f"SSG_KERNELS_BACKEND is {forced!r}")
    else:
        lines += [f"{device.upper()} tensors are served by: {name}" for device, name in _served_by().items()]
    if lacking := internals.missing():
        lines += ["", "this torch cannot", *(f"  {use}" for use in lacking)]
    return "\n".join(lines)


@dataclass(frozen=True)
class PlanRequest:
    """The question of `info --plan`: one step on one GPU, and on this CPU."""

    size: tuple[int, int]
    prev_size: tuple[int, int]
    vocabulary: int = 4096
    batch: int = 1
    dtype: str = "float32"
    cfg: bool = False
    prior: str = "dse"
    interpolation: str = "bilinear"
    target: str = "sm_90"


def plan_report(request: PlanRequest) -> str:
    """Says how each compiled backend would compute a step, and how long on a GPU by counting. It runs nothing.

    Raises ValueError for an unknown target and for impossible sizes.
    """
    if any(not 1 <= n <= m for n, m in zip(request.prev_size, request.size, strict=True)):
        raise ValueError(f"prev_size must not exceed size, got {request.prev_size} and {request.size}")
    target = targets.named(request.target)
    step = Step(
        request.size,
        request.prev_size,
        request.batch,
        request.vocabulary,
        getattr(torch, request.dtype).itemsize,
        2 if request.cfg else 1,
        request.prior,
        request.interpolation,
        aligned=request.vocabulary % 16 == 0,
    )
    (h, w), (prev_h, prev_w) = request.size, request.prev_size
    options = f"{request.prior}, {request.interpolation}" + (", cfg" if request.cfg else "")
    lines = [
        f"{prev_h}x{prev_w} -> {h}x{w}, V = {request.vocabulary}, B = {request.batch}, "
        f"{request.dtype}, {options}",
        f"on {target.name} as of one {target.card}; counted, not measured",
    ]
    plans = {
        "triton": triton_plan.describe(step, target, request.dtype == "float64"),
        "cuda": _cuda_plan(request, target),
        "cpu": _cpu_plan(request),
    }
    for backend, described in plans.items():
        lines += ["", *(f"{backend if i == 0 else '':<8} {line}" for i, line in enumerate(described))]
    return "\n".join(lines)


def _cpu_plan(request: PlanRequest) -> list[str]:
    if not extension.is_loaded():
        return [f"not known here: {extension.error}"]
    kernels = importlib.import_module("ssg_kernels._C")
    described, _ = kernels.cpu_plan(request.size, request.prev_size, request.prior, request.interpolation)
    return list(described.split(", "))


def _cuda_plan(request: PlanRequest, target: targets.Target) -> list[str]:
    if not target.name.startswith("sm_"):
        return ["not for this target"]
    if not extension.is_loaded():
        return [f"not known here: {extension.error}"]
    sizes = (request.size, request.prev_size)
    options = (request.prior, request.interpolation, request.dtype)
    counts = (request.batch, request.vocabulary, 2 if request.cfg else 1)
    machine = (int(target.name.removeprefix("sm_")), target.units)
    described = importlib.import_module("ssg_kernels._C").cuda_plan(*sizes, *options, *counts, *machine)
    return list(described.split("; "))
