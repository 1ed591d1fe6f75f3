"""What somebody needs to repeat an evaluation: the command, versions, commits and the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import ssg_kernels

_PACKAGES = (
    "numpy",
    "scipy",
    "torchmetrics",
    "torch-fidelity",
    "torchvision",
    "prdc",
    "transformers",
    "diffusers",
)


def commit(folder: Path | None) -> str | None:
    """The commit that is checked out in `folder`, or None if it is no checkout of its own."""
    if folder is None or not folder.is_dir():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--show-toplevel", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    lines = done.stdout.split("\n")
    return lines[1] if done.returncode == 0 and Path(lines[0]).resolve() == folder.resolve() else None


def facts(command: Sequence[str], arguments: Mapping[str, Any], device: str, ranks: int) -> dict[str, Any]:
    return {
        "command": ["python", "-m", "ssg_kernels", *command[1:]],
        "arguments": dict(arguments),
        "ranks": ranks,
        "versions": {
            "ssg-kernels": ssg_kernels.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            **{name: version for name in _PACKAGES if (version := _version(name))},
        },
        "commit": commit(Path(ssg_kernels.__file__).resolve().parents[1]),
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        },
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
