"""What a figure was measured on: machine, versions, commit. No host name, no path."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import ssg_kernels
from ssg_kernels import _extension, info

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_L3 = 32 << 20


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def parse_size(text: str) -> int:
    """Bytes of a sysfs cache size such as "32768K"."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    text = text.strip()
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def caches() -> dict[str, int]:
    """Bytes of each cache of the first core, e.g. {"L1d": 32768, "L2": 1048576}; empty if unknown."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            found[f"L{level}" + {"Data": "d", "Instruction": "i"}.get(kind, "")] = parse_size(size)
        except (OSError, ValueError, KeyError):
            continue
    return found


def l3_bytes() -> int:
    return caches().get("L3", DEFAULT_L3)


def kernel_in_use() -> bool:
    """Whether the compiled kernel serves CPU tensors: otherwise "ours" is the reference by another name."""
    return _extension.is_loaded() and os.environ.get("SSG_KERNELS_BACKEND") in (None, "", "cpu")


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "caches": caches(),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "torch_threads": torch.get_num_threads(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
    }


def versions() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ssg_kernels": ssg_kernels.__version__,
        "kernel_in_use": kernel_in_use(),
        "kernel_capability": kernel_capability(),
        "build": info.build(),
    }


def kernel_capability() -> str | None:
    """The instruction set that the compiled kernel chose here; None where there is no compiled kernel."""
    if not _extension.is_loaded():
        return None
    return str(importlib.import_module("ssg_kernels._C").cpu_capability())


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def commit() -> dict[str, Any]:
    """The commit, and whether anything but earlier results differs from it."""
    changes = _git("status", "--porcelain", "--", ".", ":!bench/results")
    return {
        "commit": _git("rev-parse", "--verify", "HEAD"),
        "dirty": None if changes is None else bool(changes),
    }


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
