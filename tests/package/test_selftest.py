"""`python -m ssg_kernels selftest` and `info --json`: what a user pastes into a bug report."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ssg_kernels
from ssg_kernels import info, selftest
from ssg_kernels.__main__ import main
from ssg_kernels._names import BACKENDS


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "GRIDS", selftest.GRIDS[:2])
    monkeypatch.setattr(selftest, "FILTERS", selftest.FILTERS[-1:])
    monkeypatch.delenv("SSG_KERNELS_BACKEND", raising=False)


def verdicts(text: str) -> dict[str, str]:
    pattern = rf"^({'|'.join(BACKENDS)}) +(?:cpu|cuda:\d+)? +(ok|WRONG|not usable) "
    return dict(re.findall(pattern, text, re.M))


def plant(
    monkeypatch: pytest.MonkeyPatch, operator: str, backend: str, fault: Callable[[Tensor], Tensor]
) -> None:
    """Spoils the results of an operator on one backend."""
    right = getattr(selftest, operator)

    def wrong(*arguments: object) -> Tensor:
        result = right(*arguments)
        return fault(result) if os.environ["SSG_KERNELS_BACKEND"] == backend else result

    wrong.__name__ = operator
    monkeypatch.setattr(selftest, operator, wrong)


def test_a_line_for_every_backend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSG_KERNELS_BACKEND", "reference")
    assert main(["selftest"]) == 0
    text = capsys.readouterr().out
    usable = {backend.name: "ok" if backend.usable else "not usable" for backend in info.backends()}
    assert verdicts(text) == usable
    assert re.search(rf"^torch +{re.escape(torch.__version__)},", text, re.M)
    assert os.environ["SSG_KERNELS_BACKEND"] == "reference"


@pytest.mark.parametrize(
    ("backend", "operator", "fault", "what"),
    [
        ("reference", "guided_logits", lambda x: x * (1 + 1e-5), "the error is .* times what is allowed"),
        ("cpu", "guided_logits", lambda x: x * (1 + 1e-5), "the error is .* times what is allowed"),
        ("cpu", "guided_logits_cfg", lambda x: x.nan_to_num(neginf=0), "the error is nan times"),
        ("cpu", "sample", lambda x: x + 1, "the error is inf times"),
        ("cpu", "sample", lambda x: x.view(2), r"RuntimeError: .*"),
    ],
    ids=["reference", "rounding", "mask", "token", "exception"],
)
def test_a_fault_is_named(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    backend: str,
    operator: str,
    fault: Callable[[Tensor], Tensor],
    what: str,
) -> None:
    if backend == "cpu":
        request.getfixturevalue("extension")
    plant(monkeypatch, operator, backend, fault)
    assert main(["selftest"]) == 1
    text = capsys.readouterr().out
    assert {name for name, verdict in verdicts(text).items() if verdict == "WRONG"} == {backend}
    assert re.search(rf"^{backend} .* WRONG +\d+ of \d+ calls; the first: {operator} .*: {what}", text, re.M)
    assert text.endswith(f"\nWrong results from: {backend}\n")


def test_the_facts_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["ssg_kernels"]["version"] == ssg_kernels.__version__
    assert facts["torch"]["version"] == torch.__version__
    assert facts["build"] == info.build()
    assert [tuple(backend.values()) for backend in facts["backends"]] == [tuple(b) for b in info.backends()]
    assert facts["served_by"]["cpu"] == ("cpu" if facts["backends"][1]["usable"] else "reference")
