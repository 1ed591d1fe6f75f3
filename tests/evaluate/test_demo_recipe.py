"""The recipe of the demo model: the images of `generate`, and figures like the study's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.demo_models import shipped

from ssg_kernels.demo import data
from ssg_kernels.demo.generate import Sampling, generate
from ssg_kernels.demo.metrics import features
from ssg_kernels.demo.weights import Models
from ssg_kernels.evaluate import Source, metrics
from ssg_kernels.evaluate.recipes import demo
from ssg_kernels.evaluate.setting import Setting
from ssg_kernels.evaluate.upstream import tempered

__all__ = ["shipped"]

IMAGES, BETA, SEED = 84, 0.4, 3


def test_it_makes_the_images_of_generate(
    evaluate: Callable[..., int], tmp_path: Path, shipped: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "REFERENCE", 300)
    monkeypatch.setattr(demo.Demo, "chunk", 36)
    arguments = (
        "--images",
        IMAGES,
        "--beta",
        0,
        BETA,
        "--seed",
        SEED,
        "--set",
        "cfg=1.5",
        "--temperature",
        1.2,
    )
    assert evaluate(*arguments, recipe="demo") == 0
    out = tmp_path / "out"
    rows = json.loads((out / "results.json").read_text())["rows"]
    labels = torch.arange(IMAGES) % len(data.CLASSES)
    real = features(shipped.classifier, data.images(300, demo.REFERENCE_SEED)[0]).features
    for row, beta in zip(rows, (None, BETA), strict=True):
        images, tokens = generate(shipped, labels, SEED, Sampling(cfg=1.5, temperature=1.2, beta=beta))
        chunks = [
            np.load(path) for path in sorted((out / "chunks").glob(f"beta={beta or 0}/seed{SEED}/*.npz"))
        ]
        assert len(chunks) == 3
        assert (np.concatenate([chunk["tokens"] for chunk in chunks]) == tokens.numpy()).all()
        # The study measures floats. The evaluation measures what a PNG holds.
        seen = features(shipped.classifier, images)
        precision, recall = metrics.precision_recall(seen.features, real)
        found = {name: figure["value"] for name, figure in row["metrics"].items()}
        assert found["accuracy"] == pytest.approx(seen.accuracy(labels), abs=1.5 / IMAGES)
        assert found["fid"] == pytest.approx(metrics.fid(seen.features, real), rel=0.01)
        assert found["is"] == pytest.approx(metrics.inception_score(seen.probabilities.log()), rel=0.01)
        assert found["precision"] == pytest.approx(precision, abs=0.05)
        assert found["recall"] == pytest.approx(recall, abs=0.05)


def test_chunks_in_any_order(shipped: Models) -> None:
    recipe = demo.Demo()
    recipe.load(Source())
    setting = Setting(beta=BETA, options=tuple(recipe.options.items()))
    whole = recipe.generate(setting, SEED, 0, 12)
    for first in (8, 4, 0, 4):
        part = recipe.generate(setting, SEED, first, 4)
        assert part.tokens is not None
        assert whole.tokens is not None
        assert torch.equal(part.tokens, whole.tokens[first : first + 4])
    assert recipe.prompt(13) == data.CLASSES[1]


def test_weights_that_are_none(
    tmp_path: Path, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--weights", tmp_path, "--images", 12, recipe="demo") == 2
    assert f"{tmp_path} does not hold the demo's networks" in capsys.readouterr().err


@pytest.mark.parametrize("own", [False, True])
def test_temperature(own: bool) -> None:
    class Model:
        def get_logits(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    model: Model | SimpleNamespace = SimpleNamespace(get_logits=lambda x: 2 * x) if own else Model()
    before, names = model.get_logits, set(vars(model))
    with tempered(model, "get_logits", 4.0):
        assert model.get_logits(torch.tensor(6.0)) == 3
    assert model.get_logits == before
    assert set(vars(model)) == names
