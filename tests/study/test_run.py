"""The whole study on a small design: it measures no cell twice, and its report has every row."""

from __future__ import annotations

import json
from pathlib import Path

from ssg_kernels.demo.weights import Models
from ssg_kernels.evaluate.ranks import Ranks
from study import report, search
from study.design import ROWS, Design
from study.record import Record
from study.run import run


def test_the_whole_study_and_its_report(
    tiny: Models, tmp_path: Path, made: list[tuple[int, int]], design: Design
) -> None:
    found = run(Record(tmp_path / "study", tiny, design.reference, Ranks()), design)
    assert found is not None
    chosen_by = {search.SWEEP_SEED, search.MIDDLE_SEED, search.FINAL_SEED}
    reported = {seed for seed, count in made if count == design.confirm} | {101, 102}
    assert {seed for seed, _ in made} == chosen_by | reported
    assert not chosen_by & reported
    made.clear()
    assert run(Record(tmp_path / "study", tiny, design.reference, Ranks()), design) == found
    assert not made, "nothing is generated twice"
    report.write(found, tmp_path / "out")
    assert json.loads((tmp_path / "out/study.json").read_text()) == json.loads(json.dumps(found))
    table, front = (part.splitlines() for part in (tmp_path / "out/table.md").read_text().split("\n\n"))
    assert len({line.count("|") for line in front}) == 1
    # The heading; two values of cfg; beta none, 0.2 and, for one sampling, its own; two temperatures.
    assert len(front) == 2 + 6 * 2 + (2 + 3) + 2 * 2
    assert [line.split("|")[1].strip() for line in table[2:]] == ["data", "reconstructed", *ROWS]
    assert len({line.count("|") for line in table}) == 1
    pictures = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {"rows", "cfg", "temperature", "beta", "latents", "spectrum"}
