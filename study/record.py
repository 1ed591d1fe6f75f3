"""Measures the study's cells: each stage of the study is an evaluation in a folder of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssg_kernels.demo import data
from ssg_kernels.demo.generate import Sampling
from ssg_kernels.demo.metrics import energies
from ssg_kernels.demo.weights import Models
from ssg_kernels.evaluate.evaluator import Evaluation, Evaluator
from ssg_kernels.evaluate.folder import Folder, write
from ssg_kernels.evaluate.measure import metrics_of
from ssg_kernels.evaluate.ranks import Ranks
from ssg_kernels.evaluate.recipe import Network, Samples
from ssg_kernels.evaluate.recipes.demo import REFERENCE_SEED, Demo, to_bytes
from ssg_kernels.evaluate.setting import Setting, names

_RINGS = tuple(f"spectrum {cycles}" for cycles in range(data.SIDE // 2 + 1))


class Study(Demo):
    """The demo, measured more closely: on floats, with the spectrum, and against more images of the data."""

    metrics = ("fid", "is", "accuracy", "precision", "recall", *_RINGS)
    manifold = 2000

    def __init__(self, models: Models, reference: int, device: str) -> None:
        self.count = reference
        self.use(models, device)

    def generate(self, setting: Setting, seed: int, first: int, count: int) -> Samples:
        images, tokens = self.drawn(setting, seed, first, count)
        return Samples(to_bytes(images), tokens, unrounded=images)

    def network(self) -> Network:
        classify = super().network()
        return lambda images: {**classify(images), "spectrum": energies(images)}

    def reference(self) -> Iterator[Tensor]:
        return iter(data.images(self.count, REFERENCE_SEED)[0].split(500))

    def extra_metrics(self, outputs: Mapping[str, Tensor]) -> dict[str, float]:
        rings = outputs["spectrum"].double().mean(0)
        return super().extra_metrics(outputs) | dict(zip(_RINGS, rings.tolist(), strict=True))


@dataclass(frozen=True)
class Cell:
    """One measurement: `count` images, drawn with one sampling and one seed."""

    sampling: Sampling
    seed: int
    count: int


class Record:
    """The measured cells. No cell is measured twice: each stage keeps its chunks and its results in a folder."""

    def __init__(self, path: Path, models: Models, reference: int, ranks: Ranks, device: str = "cpu") -> None:
        self.path, self.models, self.ranks = path, models, ranks
        self.model = fingerprint(models)
        self.done: dict[Cell, dict[str, Any]] = {}
        recipe = Study(models, reference, device)
        self.evaluator = Evaluator.prepare(recipe, recipe.metrics, ranks, device)

    def measure(self, cells: Iterable[Cell], stage: str) -> None:
        """Measures the cells that are new. They must be some samplings, each with the same seeds and as many images."""
        todo = [cell for cell in dict.fromkeys(cells) if cell not in self.done]
        if not todo:
            return
        samplings = list(dict.fromkeys(cell.sampling for cell in todo))
        seeds = list(dict.fromkeys(cell.seed for cell in todo))
        (count,) = {cell.count for cell in todo}
        assert len(todo) == len(samplings) * len(seeds)
        settings = [_setting(sampling) for sampling in samplings]
        named = dict(zip(names(settings), settings, strict=True))
        evaluation = Evaluation(named, seeds, count, self.evaluator.recipe.metrics)
        rows = self._rows(evaluation, Folder(self.path / stage.replace(" ", "-")))
        for sampling, row in zip(samplings, rows, strict=True):
            for seed, figures in row["seeds"].items():
                self.done[Cell(sampling, int(seed), count)] = _named_as_in_the_study(figures)

    def _rows(self, evaluation: Evaluation, folder: Folder) -> list[dict[str, Any]]:
        """The rows of an evaluation, from its folder if it is finished."""
        recipe, ranks, kept = self.evaluator.recipe, self.ranks, folder.path / "results.json"
        assert isinstance(recipe, Study)
        identity = {
            "model": self.model,
            "reference": recipe.count,
            "chunk": recipe.chunk,
        } | evaluation.identity()
        with ExitStack() as held:
            ranks.share(lambda: held.enter_context(folder.held(identity)))
            finished: str | None = ranks.share(lambda: kept.read_text() if kept.exists() else None)
            if finished is not None:
                rows: list[dict[str, Any]] = json.loads(finished)["rows"]
                return rows
            rows, _ = self.evaluator.evaluate(evaluation, folder)
            ranks.share(lambda: write(kept, json.dumps({"rows": rows}, indent=1).encode()))
        return rows

    def results(self, cells: Iterable[Cell]) -> list[dict[str, Any]]:
        return [self.done[cell] for cell in cells]

    def judge(self, images: Tensor) -> dict[str, Any]:
        """Measures images (N, 3, 32, 32) in [-1, 1], whose classes take turns."""
        evaluator = self.evaluator
        arrays = evaluator.networks.of(images, [""] * len(images))
        outputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return _named_as_in_the_study(
            metrics_of(
                outputs, evaluator.recipe.metrics, evaluator.recipe, evaluator.reference, evaluator.device
            )
        )


def _setting(sampling: Sampling) -> Setting:
    given = {**vars(sampling), "beta": sampling.beta or 0.0}
    options = tuple((name, given.pop(name)) for name in Demo.options)
    return Setting(**given, options=options)


def _named_as_in_the_study(figures: Mapping[str, float]) -> dict[str, Any]:
    """The figures of a cell, with the spectrum as a list."""
    found: dict[str, Any] = {"frechet": figures["fid"], "score": figures["is"]}
    found |= {name: figures[name] for name in ("accuracy", "precision", "recall")}
    return found | {"spectrum": [figures[ring] for ring in _RINGS]}


def fingerprint(models: Models) -> str:
    """Hash of all weights, 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for model in vars(models).values():
        for name, tensor in model.state_dict().items():
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
