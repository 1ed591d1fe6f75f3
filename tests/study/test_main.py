"""The commands `python -m study` and `python -m study.train`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ssg_kernels.demo.weights import Models
from ssg_kernels.evaluate.ranks import Ranks
from study import __main__ as study
from study import report, train
from study.design import Design
from study.record import Record
from study.run import run


def test_the_study_prints_and_writes_its_tables(
    tiny: Models,
    design: Design,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(study, "Design", lambda: design)
    monkeypatch.setattr(study.weights, "load", lambda device: tiny)
    work, out = tmp_path / "work", tmp_path / "out"
    assert study.main(["--work", str(work), "--out", str(out), "--device", "cpu"]) == 0
    found = run(Record(work, tiny, design.reference, Ranks()), design)
    assert found is not None
    expected = [*report.table(found), "", *report.front(found)]
    assert (out / "table.md").read_text().splitlines() == expected
    assert capsys.readouterr().out.splitlines() == [*expected, f"Written: {out}"]


@pytest.mark.parametrize(("main", "command"), [(study.main, "study"), (train.main, "study.train")])
def test_usage_names_the_command(
    main: Callable[[list[str]], int], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m {command} [-h]")
