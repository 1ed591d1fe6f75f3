"""How well the plans rank their candidates: the committed figures, and some of them executed again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.executed import require_nvcc

from bench import counted
from bench.ptx import ranking

require_nvcc()

COMMITTED = sorted((Path(counted.__file__).parent / "results").glob("ranking-*.json"))
# Whose candidates take a second or two.
CHEAP = {("5->6", "float32"), ("6->8", "bfloat16")}
# What a choice may cost where samples fill the card, and for one sample.
MOST = {"cuda": (1.1, 1.1), "triton": (1.2, 1.25)}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_rankings_are_what_is_executed(path: Path) -> None:
    """After a change to kernels or plans: python -m bench.ptx.ranking --target ... --backend ... --json FILE."""
    committed = json.loads(path.read_text())
    backend, target, found = committed["backend"], committed["target"], committed["steps"]
    if backend == "triton":
        pytest.importorskip("triton")
    cases = list(ranking.cases())
    names = [(case.name, case.batch, case.vocabulary, str(case.dtype).split(".")[1]) for case in cases]
    assert [(row["step"], row["batch"], row["vocabulary"], row["dtype"]) for row in found] == names[
        : len(found)
    ]
    assert committed["summary"] == ranking.summary(found)
    for is_one, most in enumerate(MOST[backend]):
        assert max(row["cost"] for row in found if (row["batch"] == 1) == is_one) < most
    compiler = "nvcc" if backend == "cuda" else "triton"
    if counted.versions(backend)[compiler] != committed["versions"][compiler]:
        pytest.skip(f"another version of {compiler} made the committed figures")
    for case, row in zip(cases, found, strict=False):
        if (row["step"], row["dtype"]) in CHEAP:
            assert ranking.rank(case, list(ranking.BACKENDS[backend](case, target))) == row
