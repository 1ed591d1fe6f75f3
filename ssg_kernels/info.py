"""What `python -m ssg_kernels info` prints: versions, and which backends are built and usable here, or why not."""

from __future__ import annotations

import importlib
import json
import os
import platform
from pathlib import Path
from typing import NamedTuple

import torch

from ssg_kernels import _extension
from ssg_kernels._version import __version__


class Backend(NamedTuple):
    name: str
    usable: bool
    note: str


def build() -> dict[str, str] | None:
    """The facts that the build of the extension left beside it; None for the pure-Python package."""
    facts = Path(__file__).with_name("_build.json")
    return json.loads(facts.read_text(encoding="utf-8")) if facts.is_file() else None


def backends() -> list[Backend]:
    """Every value of SSG_KERNELS_BACKEND, usable here or with the reason why not."""
    return [
        Backend("reference", True, "plain PyTorch, every device"),
        _cpu_backend(),
        Backend("triton", False, "not part of this build"),
        Backend("cuda", False, "not part of this build"),
    ]


def _cpu_backend() -> Backend:
    facts = build()
    if _extension.is_loaded():
        capability = importlib.import_module("ssg_kernels._C").cpu_capability()
        return Backend("cpu", True, f"C++ kernels for {capability}")
    if facts is None:
        why = "the pure-Python package is installed; with a C++ compiler, `pip install` builds the kernels"
    else:
        why = f"built for torch {facts['torch_floor']} and newer, but not loaded: {_extension.error}"
    return Backend("cpu", False, why)


def _versions() -> list[tuple[str, str]]:
    system = f"{platform.system()} {platform.machine()} {' '.join(platform.libc_ver())}".rstrip()
    rows = [
        ("ssg-kernels", f"{__version__} ({Path(__file__).parent})"),
        ("python", f"{platform.python_version()} {platform.python_implementation()}, {system}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
    ]
    facts = build()
    if facts is not None:
        commit = f", commit {facts['commit']}" if facts["commit"] else ""
        rows += [
            ("built with", f"{facts['compiler']}, torch {facts['torch_headers']} headers{commit}"),
            (
                "built for",
                f"torch {facts['torch_floor']} and newer; {facts['system']}: {facts['cpu_targets']}",
            ),
            ("flags", facts["flags"]),
        ]
    return rows


def report() -> str:
    """The text of `python -m ssg_kernels info`."""
    lines = [f"{name:<12} {value}" for name, value in _versions()]
    lines += ["", "backends"]
    for backend in backends():
        lines.append(
            f"  {backend.name:<10} {'usable' if backend.usable else 'not usable':<11} {backend.note}"
        )
    forced = os.environ.get("SSG_KERNELS_BACKEND")
    usual = "cpu" if _extension.is_loaded() else "reference"
    lines += ["", f"SSG_KERNELS_BACKEND is {forced!r}" if forced else f"CPU tensors are served by: {usual}"]
    return "\n".join(lines)
