"""A cache of the tests' own, and the toy recipe as a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import toy_recipe

from ssg_kernels.__main__ import main

TOY = toy_recipe.__file__


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("torchmetrics", "prdc", "matplotlib"):
        pytest.importorskip(name)
    path = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return path


@pytest.fixture
def evaluate(tmp_path: Path) -> Callable[..., int]:
    """Runs the command on the toy recipe in this process, into tmp_path / "out"."""

    def run(*arguments: Any, out: Path = tmp_path / "out", recipe: str = TOY) -> int:
        return main(["evaluate", recipe, "--out", str(out), *map(str, arguments)])

    return run
