"""Records what a figure was measured on: machine, versions and commit, but no host name and no path."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import ssg_kernels
from ssg_kernels import info
from ssg_kernels._torch import extension

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


def cache_bytes(device: torch.device) -> int:
    """The size of the device's last-level cache."""
    return torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else l3_bytes()


def accelerator(device: torch.device) -> dict[str, Any]:
    """The facts of a GPU that its figures depend on; empty for the CPU."""
    if device.type != "cuda":
        return {}
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "gpu_multiprocessors": properties.multi_processor_count,
        "gpu_memory_bytes": properties.total_memory,
        "gpu_L2_bytes": properties.L2_cache_size,
        "gpu_driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "gpu_clocks": _output(
            "nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,clocks.max.sm", "--format=csv,noheader"
        ),
    }


def kernel_in_use() -> bool:
    """Whether the compiled kernel serves CPU tensors. If it does not, "ours" runs the reference."""
    return extension.is_loaded() and os.environ.get("SSG_KERNELS_BACKEND") in (None, "", "cpu")


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
        "triton": _version_of("triton"),
        "cuda": torch.version.cuda,
        "ssg_kernels": ssg_kernels.__version__,
        "kernel_in_use": kernel_in_use(),
        "kernel_capability": kernel_capability(),
        "build": info.build(),
    }


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def kernel_capability() -> str | None:
    """The instruction set that the compiled kernel chose on this machine; None without a compiled kernel."""
    if not extension.is_loaded():
        return None
    return str(importlib.import_module("ssg_kernels._C").cpu_capability())


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _git(*arguments: str) -> str | None:
    return _output("git", *arguments)


def commit() -> dict[str, Any]:
    """The commit, and whether the working tree differs from it in anything but bench/results."""
    changes = _git("status", "--porcelain", "--", ".", ":!bench/results")
    return {
        "commit": _git("rev-parse", "--verify", "HEAD"),
        "dirty": None if changes is None else bool(changes),
    }


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
