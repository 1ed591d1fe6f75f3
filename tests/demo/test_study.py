"""The study resumes, and its summary follows from its cells."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssg_kernels.demo import record as module
from ssg_kernels.demo import report, search, study
from ssg_kernels.demo.design import ROWS, Design
from ssg_kernels.demo.generate import Sampling
from ssg_kernels.demo.record import Cell, Record, Yardstick
from ssg_kernels.demo.weights import Models

CELLS = [Cell(Sampling(beta=beta), seed, 24) for beta in (None, 0.5) for seed in (1, 2)]
DESIGN = Design(
    cfgs=(0.0, 1.0),
    temperatures=(1.0,),
    betas=(0.5,),
    coarse=24,
    shortlist=2,
    middle=24,
    finalists=2,
    final=24,
    seeds=2,
    confirm=36,
    curve=24,
    curve_cfgs=(0.0, 1.0),
    curve_temperatures=(0.5, 1.0),
    curve_betas=(0.2,),
    reference=60,
    latents=12,
)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """The cells that were measured, not read."""
    cells: list[Cell] = []
    measure = Yardstick.measure

    def noting(self: Yardstick, cell: Cell) -> dict[str, object]:
        cells.append(cell)
        return measure(self, cell)

    monkeypatch.setattr(Yardstick, "measure", noting)
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
    path.write_text(path.read_text().replace(module.fingerprint(tiny), "0" * 12))
    Record(path, tiny, 60).measure(CELLS[:1], "")
    assert measured == [CELLS[0]] * 2


def test_the_whole_study_and_its_report(tiny: Models, tmp_path: Path, measured: list[Cell]) -> None:
    found = study.run(Record(tmp_path / "study.jsonl", tiny, DESIGN.reference), DESIGN)
    count = len(measured)
    chosen_by = {search.SWEEP_SEED, search.MIDDLE_SEED, search.FINAL_SEED}
    assert chosen_by < {cell.seed for cell in measured}
    reported = {cell.seed for cell in measured if cell.count == DESIGN.confirm} | {101, 102}
    assert not chosen_by & reported
    assert study.run(Record(tmp_path / "study.jsonl", tiny, DESIGN.reference), DESIGN) == found
    assert len(measured) == count, "nothing is measured twice"
    report.write(found, tmp_path / "out")
    assert json.loads((tmp_path / "out/study.json").read_text()) == json.loads(json.dumps(found))
    table, front = (part.splitlines() for part in (tmp_path / "out/table.md").read_text().split("\n\n"))
    assert len({line.count("|") for line in front}) == 1
    # Heading; two values of cfg; beta none, 0.2, and at one sampling its own; two temperatures.
    assert len(front) == 2 + 6 * 2 + (2 + 3) + 2 * 2
    assert [line.split("|")[1].strip() for line in table[2:]] == ["data", "reconstructed", *ROWS]
    assert len({line.count("|") for line in table}) == 1
    pictures = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {"rows", "cfg", "temperature", "beta", "latents", "spectrum"}


def test_summary_pairs_the_seeds(tmp_path: Path, tiny: Models) -> None:
    record = Record(tmp_path / "study.jsonl", tiny, 60)
    cells = {"baseline": CELLS[:2], "dse": CELLS[2:]}
    for cell, value in zip(CELLS, (1.0, 2.0, 4.0, 5.0), strict=True):
        record.done[cell] = {"frechet": value, "spectrum": [value, 2 * value]}
    summary = study._summary(record, CELLS[2:], cells)
    assert summary["frechet"] == (4.5, pytest.approx(0.5))
    assert summary["minus baseline"]["frechet"] == (3, 0)
    assert summary["spectrum"] == [(4.5, pytest.approx(0.5)), (9, pytest.approx(1))]


def test_the_baseline_of_equal_score(tmp_path: Path, tiny: Models) -> None:
    record = Record(tmp_path / "study.jsonl", tiny, 60)
    line = [[Cell(Sampling(temperature=t), seed, 24) for seed in (1, 2)] for t in (0.5, 1.0, 1.5)]
    for k, group in enumerate(line):
        for seed, cell in enumerate(group):
            # The distance is not monotonic along the line, and the second seed is 1 off.
            record.done[cell] = {"score": 6.0 - k, "frechet": [3.0, 1.0, 2.0][k] + seed}
    mine = [Cell(Sampling(beta=0.5), seed, 24) for seed in (1, 2)]
    for cell in mine:
        record.done[cell] = {"score": 5.5, "frechet": 2.5}
    # Halfway between 1 and 3, and between 2 and 4.
    assert study._at_equal_score(record, mine, line) == (0, pytest.approx(0.5))
    record.done[mine[1]] = {"score": 3.9, "frechet": 2.5}
    assert study._at_equal_score(record, mine, line) is None


def test_processes_measure_what_one_does(tmp_path: Path, tiny: Models) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = Record(tmp_path / "alone.jsonl", tiny, 60)
        alone.measure(CELLS, "")
    finally:
        torch.set_num_threads(threads)
    with Record(tmp_path / "together.jsonl", tiny, 60, workers=2) as together:
        together.measure(CELLS, "")
    assert together.results(CELLS) == alone.results(CELLS)
    assert Record(tmp_path / "together.jsonl", tiny, 60).done == together.done


@pytest.fixture
def bowl(tmp_path: Path, tiny: Models, monkeypatch: pytest.MonkeyPatch) -> Record:
    """A record whose distance is a known function of the sampling."""

    def measure(self: Record, cells: Iterable[Cell], title: str) -> None:
        for cell in cells:
            s = cell.sampling
            distance = (s.cfg - 1.2) ** 2 + (s.temperature - 0.8) ** 2 + ((s.beta or 0) - 0.9) ** 2
            # Chance: what a seed of small cells says of one sampling is too good, and of another at the next stage.
            distance -= 9 * (cell.seed == search.SWEEP_SEED and s.cfg == 2 and s.temperature == 1)
            distance -= 9 * (cell.seed == search.MIDDLE_SEED and s.temperature == 0.85)
            self.done[cell] = {"frechet": distance}

    monkeypatch.setattr(Record, "measure", measure)
    return Record(tmp_path / "study.jsonl", tiny, 60)


BOWL = Design(cfgs=(0.0, 1.0, 2.0), temperatures=(0.7, 1.0), betas=(0.25, 0.5, 1.0))


def test_the_operating_point_is_chosen_by_the_last_stage(bowl: Record) -> None:
    best = search.operating_points(bowl, BOWL, ["baseline", "dse"])
    assert best["dse"] == Sampling(cfg=1, temperature=0.85, beta=1)
    assert best["baseline"] == Sampling(cfg=1, temperature=0.85)
    last = [cell.sampling for cell in bowl.done if cell.seed == search.FINAL_SEED]
    assert len(last) == 2 * BOWL.finalists
    assert {cell.count for cell in bowl.done} == {BOWL.coarse, BOWL.middle, BOWL.final}


def test_neighbours() -> None:
    best = Sampling(cfg=1, temperature=0.7, beta=1)
    near = [(s.cfg, s.temperature, s.beta) for s in search.neighbours(best, BOWL)]
    assert near == [(0.5, 0.7, 1), (1.5, 0.7, 1), (1, 0.55, 1), (1, 0.85, 1), (1, 0.7, 0.75), (1, 0.7, 1.25)]
    assert len(search.neighbours(replace(best, cfg=0, beta=None), BOWL)) == 3


def test_halfway() -> None:
    values = (0.5, 1.0, 2.0)
    assert search.halfway(values, 1.0) == (0.75, 1.5)
    assert search.halfway(values, 2.0) == (1.5, 2.5)
    assert search.halfway(values, 0.5) == (0.25, 0.75)
    assert search.halfway((0.0, 1.0), 0.0) == (0.0, 0.5)


@pytest.mark.parametrize(
    ("sampling", "edges"),
    [
        (Sampling(cfg=1, temperature=0.85, beta=0.5), []),
        (Sampling(cfg=0, temperature=0.85, beta=0.2), ["beta"]),
        (Sampling(cfg=2.5, temperature=1.15, beta=1.25), ["cfg", "temperature", "beta"]),
        (Sampling(cfg=1, temperature=0.7), ["temperature"]),
    ],
)
def test_an_operating_point_at_the_edge_is_marked(bowl: Record, sampling: Sampling, edges: list[str]) -> None:
    assert search.at_edge(bowl, BOWL, sampling) == edges


def test_at_the_edge_with_something_measured_beyond_is_no_edge(bowl: Record) -> None:
    beyond = Cell(Sampling(cfg=1, temperature=0.55), search.MIDDLE_SEED, BOWL.middle)
    bowl.measure([beyond], "")
    assert search.at_edge(bowl, BOWL, Sampling(cfg=1, temperature=0.7)) == []
