"""What is known of the torch that runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

import ssg_kernels
from ssg_kernels._torch import internals


def test_nothing_is_missing() -> None:
    assert internals.missing() == []


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(*arguments: object) -> Tensor:
        raise NotImplementedError("could not find kernel\nfor it")

    monkeypatch.setattr(internals.SingleLevelFunction, "apply", apply)
    assert internals.missing() == [
        "torch.func.grad: could not find kernel",
        "torch.func.jvp: could not find kernel",
        "torch.func.jvp of torch.func.jvp: could not find kernel",
    ]


def test_one_file_uses_private_api() -> None:
    folder = Path(ssg_kernels.__file__).parent / "_torch"
    users = [
        path.name
        for path in sorted(folder.glob("*.py"))
        if any(name in path.read_text(encoding="utf-8") for name in ("torch._", "torch.autograd._"))
    ]
    assert users == ["internals.py"]
