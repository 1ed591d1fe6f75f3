"""Real checkouts, imported from the folder that SSG_UPSTREAM names, one subfolder each, at the commits named here.

Their packages share names (`models`, `utils`), so each is imported for the tests of one file and forgotten after.
What they import but these tests do not run, such as CUDA kernels, is stood in for by empty modules.
"""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

COMMITS = {
    "VAR": "78b9539",
    "hart": "e28a41f",
    "Infinity": "4c27bbb",
    "VQ-Diffusion": "d1d3948",
    "switti": "3b286b5",
    "HMAR": "595a9df",
    "FlexVAR": "04462cb",
    "ImageFolder": "76ddfb9",
}


def folder_of(name: str) -> Path:
    """The checkout; skips, with the reason, where there is none at the commit that the integration follows."""
    root = os.environ.get("SSG_UPSTREAM")
    if not root:
        pytest.skip("SSG_UPSTREAM names no folder of upstream checkouts")
    folder = Path(root) / name
    if not folder.is_dir():
        pytest.skip(f"SSG_UPSTREAM holds no {name}")
    head = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout
    if not head.startswith(COMMITS[name]):
        pytest.skip(f"{name} is at {head[:7] or 'no commit'}, not at {COMMITS[name]}")
    return folder


class Nothing(torch.nn.Module):
    """What nothing runs, made with any arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()


class Empty(types.ModuleType):
    """A module that has everything, each a class of nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Nothing,), {})


def empty(*names: str) -> dict[str, types.ModuleType]:
    """Empty modules of these names; parents come first, unless they are the checkout's own."""
    modules: dict[str, types.ModuleType] = {}
    for name in names:
        module = modules[name] = Empty(name)
        module.__path__ = []
        parent, _, child = name.rpartition(".")
        if parent in modules:
            setattr(modules[parent], child, module)
    return modules


@contextmanager
def checkout(name: str, stubs: Mapping[str, types.ModuleType] = {}) -> Iterator[Path]:
    folder = folder_of(name)
    own = {path.stem for path in folder.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for path, module in stubs.items():
            patch.setitem(sys.modules, path, module)
        try:
            yield folder
        finally:
            for imported in [path for path in sys.modules if path.partition(".")[0] in own]:
                del sys.modules[imported]


def randomize(module: torch.nn.Module, seed: int = 0) -> None:
    """Random weights, whatever the constructor left there: zeros would hide half of a network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan = parameter.shape[-1] if parameter.ndim > 1 else 16
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
