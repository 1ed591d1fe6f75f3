"""The record keeps what was measured, and several processes measure the same as one."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ssg_kernels.demo.generate import Sampling
from ssg_kernels.demo.weights import Models
from study.record import Cell, Record, fingerprint

CELLS = [Cell(Sampling(beta=beta), seed, 24) for beta in (None, 0.5) for seed in (1, 2)]


def test_measured_cells_are_read_again(tiny: Models, tmp_path: Path, measured: list[Cell]) -> None:
    path = tmp_path / "study.jsonl"
    first = Record(path, tiny, 60)
    first.measure(CELLS[:3], "")
    # The last line is incomplete, as after an interruption.
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
    path.write_text(path.read_text().replace(fingerprint(tiny), "0" * 12))
    Record(path, tiny, 60).measure(CELLS[:1], "")
    assert measured == [CELLS[0]] * 2


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
