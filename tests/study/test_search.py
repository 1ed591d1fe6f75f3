"""The search on a distance that is a known function of the sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from ssg_kernels.demo.generate import Sampling
from study import search
from study.design import Design
from study.record import Cell, Record


@pytest.fixture
def bowl(tmp_path: Path, record_of: Callable[[Path], Record], monkeypatch: pytest.MonkeyPatch) -> Record:
    """A record whose distance is a known function of the sampling."""

    def measure(self: Record, cells: Iterable[Cell], title: str) -> None:
        for cell in cells:
            s = cell.sampling
            distance = (s.cfg - 1.2) ** 2 + (s.temperature - 0.8) ** 2 + ((s.beta or 0) - 0.9) ** 2
            # Chance: the sweep's seed makes one sampling look too good, and the next stage's seed another one.
            distance -= 9 * (cell.seed == search.SWEEP_SEED and s.cfg == 2 and s.temperature == 1)
            distance -= 9 * (cell.seed == search.MIDDLE_SEED and s.temperature == 0.85)
            self.done[cell] = {"frechet": distance}

    monkeypatch.setattr(Record, "measure", measure)
    return record_of(tmp_path)


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
