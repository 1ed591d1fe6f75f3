"""A stage is an evaluation: it is finished after an interruption, is measured once, and two ranks measure the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.demo_models import new_tiny

from ssg_kernels.demo import data
from ssg_kernels.demo.generate import Sampling, generate
from ssg_kernels.demo.metrics import features, spectrum
from ssg_kernels.demo.weights import Models
from ssg_kernels.evaluate import EvaluateError, metrics
from ssg_kernels.evaluate.ranks import Ranks
from ssg_kernels.evaluate.recipes.demo import REFERENCE_SEED
from study.record import Cell, Record, Study

ROOT = Path(__file__).resolve().parents[2]
GUIDED = Sampling(cfg=1.5, temperature=1.2, beta=0.5, prior="spatial", cfg_order="before")
CELLS = [Cell(sampling, seed, 150) for sampling in (Sampling(), GUIDED) for seed in (1, 2)]


def test_a_cell_is_what_the_libraries_give(
    tmp_path: Path, tiny: Models, record_of: Callable[[Path], Record]
) -> None:
    record = record_of(tmp_path)
    record.measure(CELLS, "stage")
    real = features(tiny.classifier, data.images(60, REFERENCE_SEED)[0])
    labels = torch.arange(150) % len(data.CLASSES)
    for cell, found in zip(CELLS, record.results(CELLS), strict=True):
        images, _ = generate(tiny, labels, cell.seed, cell.sampling)
        seen = features(tiny.classifier, images)
        precision, recall = metrics.precision_recall(seen.features, real.features)
        expected = {
            "frechet": metrics.fid(seen.features, real.features),
            "score": metrics.inception_score(seen.probabilities.log()),
            "accuracy": seen.accuracy(labels),
            "precision": precision,
            "recall": recall,
            "spectrum": spectrum(images).tolist(),
        }
        assert _flat(found) == pytest.approx(_flat(expected), rel=1e-4)
        assert _flat(record.judge(images)) == pytest.approx(_flat(expected), rel=1e-4)


def _flat(figures: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if name != "spectrum"} | {
        f"spectrum {r}": value for r, value in enumerate(figures["spectrum"])
    }


def test_it_resumes(
    tmp_path: Path,
    record_of: Callable[[Path], Record],
    made: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = record_of(tmp_path / "whole")
    whole.measure(CELLS, "stage")
    assert len(made) == 8
    generate = Study.generate

    def interrupted(self: Study, *arguments: object) -> object:
        if len(made) == 11:
            raise KeyboardInterrupt
        return generate(self, *arguments)  # type: ignore[arg-type]

    cut = record_of(tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(Study, "generate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cut.measure(CELLS, "stage")
    cut = record_of(tmp_path / "cut")
    cut.measure(CELLS, "stage")
    assert cut.results(CELLS) == whole.results(CELLS)
    assert len(made) == 16
    for _ in range(2):
        cut.measure(CELLS, "stage")
        cut = record_of(tmp_path / "cut")
    assert len(made) == 16


def test_cells_of_other_weights_do_not_count(tmp_path: Path, record_of: Callable[[Path], Record]) -> None:
    record_of(tmp_path).measure(CELLS[:1], "stage")
    other = record_of(tmp_path)
    other.model = "0" * 12
    with pytest.raises(EvaluateError, match="was made with model"):
        other.measure(CELLS[:1], "stage")


def test_every_rank_has_the_results(tmp_path: Path, record_of: Callable[[Path], Record]) -> None:
    """In the same folder: what two ranks made, one process reads and does not change."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        __file__,
        str(tmp_path),
    ]
    path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    subprocess.run(command, cwd=ROOT, env=os.environ | path, check=True, timeout=240)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    alone = record_of(tmp_path / "alone")
    alone.measure(CELLS, "stage")
    for found in ranks:
        for one, other in zip(found, alone.results(CELLS), strict=True):
            assert _flat(one) == pytest.approx(_flat(other), rel=1e-6)


if __name__ == "__main__":
    with Ranks() as ranks:
        record = Record(Path(sys.argv[1]), new_tiny(), 60, ranks)
        record.measure(CELLS, "stage")
        Path(sys.argv[1], f"rank{ranks.rank}.json").write_text(json.dumps(record.results(CELLS)))
