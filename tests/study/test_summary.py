"""Means, standard errors and paired differences of cells with known results."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from ssg_kernels.demo.generate import Sampling
from study.record import Cell, Record
from study.summary import at_equal_score, mean_and_error, summarise

CELLS = [Cell(Sampling(beta=beta), seed, 24) for beta in (None, 0.5) for seed in (1, 2)]


def test_mean_and_error() -> None:
    mean, error = mean_and_error([1.0, 2.0, 3.0])
    assert mean == 2
    assert error == pytest.approx(1 / 3**0.5)
    assert math.isnan(mean_and_error([1.0])[1])


def test_summary_pairs_the_seeds(tmp_path: Path, record_of: Callable[[Path], Record]) -> None:
    record = record_of(tmp_path)
    cells = {"baseline": CELLS[:2], "dse": CELLS[2:]}
    for cell, value in zip(CELLS, (1.0, 2.0, 4.0, 5.0), strict=True):
        record.done[cell] = {"frechet": value, "spectrum": [value, 2 * value]}
    summary = summarise(record, CELLS[2:], cells)
    assert summary["frechet"] == (4.5, pytest.approx(0.5))
    assert summary["minus baseline"]["frechet"] == (3, 0)
    assert summary["spectrum"] == [(4.5, pytest.approx(0.5)), (9, pytest.approx(1))]


def test_the_baseline_of_equal_score(tmp_path: Path, record_of: Callable[[Path], Record]) -> None:
    record = record_of(tmp_path)
    line = [[Cell(Sampling(temperature=t), seed, 24) for seed in (1, 2)] for t in (0.5, 1.0, 1.5)]
    for k, group in enumerate(line):
        for seed, cell in enumerate(group):
            # The distance is not monotonic along the line. The second seed's is larger by 1.
            record.done[cell] = {"score": 6.0 - k, "frechet": [3.0, 1.0, 2.0][k] + seed}
    mine = [Cell(Sampling(beta=0.5), seed, 24) for seed in (1, 2)]
    for cell in mine:
        record.done[cell] = {"score": 5.5, "frechet": 2.5}
    # Halfway between 1 and 3, and between 2 and 4.
    assert at_equal_score(record, mine, line) == (0, pytest.approx(0.5))
    record.done[mine[1]] = {"score": 3.9, "frechet": 2.5}
    assert at_equal_score(record, mine, line) is None
