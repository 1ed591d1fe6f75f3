"""Real checkouts, imported from the folder that SSG_UPSTREAM names, one subfolder each, at the commits named here.

Their packages share names (`models`, `utils`), so each is imported for the tests of one file and forgotten after.
What they import but these tests do not run, such as CUDA kernels, is stood in for by empty modules.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import types
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import machinery
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
    "InfinityStar": "0446330",
    "VARGPT-v1.1": "8c67c26",
    "TokenFlow": "9812da0",
    "GRN": "2a3353d",
    "VAREdit": "2ca737c",
    "VAR-CLIP": "816de00",
    "FastVAR": "34cdd65",
    "ScaleKV": "eb0615a",
    "SpecuKV": "f515bb6",
    "MVAR": "d0e035a",
    "CoDe": "bfb204d",
    "SkipVAR": "607be0e",
    "LSRS": "22c26fe",
    "VAR-Scaling": "b7a0930",
    "SAR3D_reproduce": "f40a460",
    "AAR": "eaaf1bc",
}

# Where models keep the attention cache and the generator.
STATE = ("caching", "cached_k", "cached_v", "rng")


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
        # Others ask whether there is such a package.
        module.__spec__ = machinery.ModuleSpec(name, None)
        parent, _, child = name.rpartition(".")
        if parent in modules:
            setattr(modules[parent], child, module)
    return modules


@contextmanager
def checkout(name: str, stubs: Mapping[str, types.ModuleType] = {}, part: str = "") -> Iterator[Path]:
    """`part` is the folder of the repository from which its modules are imported."""
    folder = folder_of(name) / part
    own = {path.stem for path in folder.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        # Of another checkout that is in use.
        for other in [path for path in sys.modules if path.partition(".")[0] in own]:
            patch.delitem(sys.modules, other)
        for path, module in stubs.items():
            patch.setitem(sys.modules, path, module)
        try:
            yield folder
        finally:
            for imported in [path for path in sys.modules if path.partition(".")[0] in own]:
                del sys.modules[imported]


class _OfThread:
    """An attribute that each thread has for itself. Threads begin with what the object had."""

    def __init__(self, name: str, first: Any) -> None:
        self.name, self.first, self.values = name, first, threading.local()

    def __get__(self, instance: Any, _: type | None = None) -> Any:
        if not hasattr(self.values, "value"):
            is_random = isinstance(self.first, torch.Generator)
            self.values.value = torch.Generator() if is_random else self.first
        return self.values.value

    def __set__(self, instance: Any, value: Any) -> None:
        self.values.value = value


def private_to_threads(model: torch.nn.Module, names: Collection[str] = STATE) -> None:
    """Give each thread attributes of its own, where a model keeps the state of a generation on itself."""
    for module in model.modules():
        kept = [name for name in names if name in vars(module)]
        if kept:
            own = type(module)
            places = {name: _OfThread(name, vars(module).pop(name)) for name in kept}
            module.__class__ = type(own.__name__, (own,), {"__module__": own.__module__, **places})


def randomize(module: torch.nn.Module, seed: int = 0) -> None:
    """Random weights, whatever the constructor left there: zeros would hide half of a network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan = parameter.shape[-1] if parameter.ndim > 1 else 16
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
