"""The study resumes, and its summary follows from its cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssg_kernels.demo import report, study
from ssg_kernels.demo.generate import Sampling
from ssg_kernels.demo.study import Cell, Design, Record
from ssg_kernels.demo.weights import Models

CELLS = [Cell(Sampling(beta=beta), seed, 24) for beta in (None, 0.5) for seed in (1, 2)]
DESIGN = Design(
    cfgs=(0.0, 1.0),
    temperatures=(1.0,),
    betas=(0.5,),
    coarse=24,
    shortlist=2,
    middle=24,
    confirm=36,
    curve=24,
    points=2,
    seeds=2,
    curve_temperatures=(0.5, 1.0),
    curve_betas=(0.2,),
    reference=60,
    latents=12,
)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """The cells that were measured, not read."""
    cells: list[Cell] = []
    measure = Record._measure

    def noting(self: Record, cell: Cell) -> dict[str, object]:
        cells.append(cell)
        return measure(self, cell)

    monkeypatch.setattr(Record, "_measure", noting)
    return cells


def test_measured_cells_are_read_again(tiny: Models, tmp_path: Path, measured: list[Cell]) -> None:
    path = tmp_path / "study.jsonl"
    first = Record(path, tiny, 60)
    first.measure(CELLS[:3], "")
    # The last line was cut while it was written.
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:-20])
    second = Record(path, tiny, 60)
    second.measure(CELLS, "")
    assert measured == [*CELLS[:3], *CELLS[2:]]
    assert second.results(CELLS[:3]) == first.results(CELLS[:3])
    assert [json.loads(line)["seed"] for line in path.read_text().splitlines()] == [1, 2, 1, 2]


def test_cells_of_other_weights_do_not_count(tiny: Models, tmp_path: Path, measured: list[Cell]) -> None:
    path = tmp_path / "study.jsonl"
    Record(path, tiny, 60).measure(CELLS[:1], "")
    path.write_text(path.read_text().replace(study._fingerprint(tiny), "0" * 12))
    Record(path, tiny, 60).measure(CELLS[:1], "")
    assert measured == [CELLS[0]] * 2


def test_the_whole_study_and_its_report(tiny: Models, tmp_path: Path, measured: list[Cell]) -> None:
    found = study.run(Record(tmp_path / "study.jsonl", tiny, DESIGN.reference), DESIGN)
    count = len(measured)
    assert study.run(Record(tmp_path / "study.jsonl", tiny, DESIGN.reference), DESIGN) == found
    assert len(measured) == count, "nothing is measured twice"
    report.write(found, tmp_path / "out")
    assert json.loads((tmp_path / "out/study.json").read_text()) == json.loads(json.dumps(found))
    table = (tmp_path / "out/table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == list(study.ROWS)
    assert len({line.count("|") for line in table}) == 1
    pictures = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {"front", "temperature", "beta", "latents", "spectrum"}


def test_summary_pairs_the_seeds(tmp_path: Path, tiny: Models) -> None:
    record = Record(tmp_path / "study.jsonl", tiny, 60)
    cells = {"baseline": CELLS[:2], "dse": CELLS[2:]}
    for cell, value in zip(CELLS, (1.0, 2.0, 4.0, 5.0), strict=True):
        record.done[cell] = {"frechet": value, "spectrum": [value]}
    summary = study._summary(record, CELLS[2:], cells)
    assert summary["frechet"] == (4.5, pytest.approx(0.5))
    assert summary["minus baseline"]["frechet"] == (3, 0)
    assert summary["spectrum"] == [4.5]


def test_the_front_is_what_nothing_beats(tmp_path: Path, tiny: Models) -> None:
    record = Record(tmp_path / "study.jsonl", tiny, 60)
    design = Design(cfgs=(0.0, 1.0, 2.0, 3.0), temperatures=(1.0,), points=3)
    values = {0.0: (5.0, 0.9), 1.0: (2.0, 0.8), 2.0: (3.0, 0.7), 3.0: (4.0, 0.85)}
    for cfg, (distance, accuracy) in values.items():
        cell = Cell(Sampling(cfg=cfg), 1001, design.coarse)
        record.done[cell] = {"frechet": distance, "accuracy": accuracy}
    assert [s.cfg for s in study._front(record, design, "baseline")] == [1.0, 3.0, 0.0]
