"""Measures the study's cells, in several processes, and keeps the results in a file."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor

from ssg_kernels.demo import data
from ssg_kernels.demo.generate import Sampling, generate
from ssg_kernels.demo.metrics import features, spectrum
from ssg_kernels.demo.weights import Models
from study import metrics, progress

REFERENCE_SEED = 10**10  # of the data that everything is compared with; training used none of it


@dataclass(frozen=True)
class Cell:
    """One measurement: `count` images, drawn with one sampling and one seed."""

    sampling: Sampling
    seed: int
    count: int


class Yardstick:
    """Compares generated images with `reference` images of the data."""

    def __init__(self, models: Models, reference: int) -> None:
        self.models = models
        self.real = features(models.classifier, data.images(reference, REFERENCE_SEED)[0])

    def measure(self, cell: Cell) -> dict[str, Any]:
        labels = torch.arange(cell.count) % len(data.CLASSES)
        return self.judge(generate(self.models, labels, cell.seed, cell.sampling)[0], labels)

    def judge(self, images: Tensor, labels: Tensor) -> dict[str, Any]:
        """Measures images (N, 3, H, W), given the classes (N,) that were requested."""
        made = features(self.models.classifier, images)
        precision, recall = metrics.precision_recall(made.features, self.real.features)
        return {
            "frechet": metrics.frechet(made.features, self.real.features),
            "score": metrics.score(made),
            "accuracy": made.accuracy(labels),
            "precision": precision,
            "recall": recall,
            "spectrum": spectrum(images).tolist(),
        }


class Record:
    """The measured cells, kept in a file with one JSON object per line. No cell is measured twice.

    Used as a context manager, it starts `workers` processes with one thread each. If `workers` is 1, this process
    measures.
    """

    def __init__(self, path: Path, models: Models, reference: int, workers: int = 1) -> None:
        self.path, self.models, self.reference, self.workers = path, models, reference, workers
        self.model = fingerprint(models)
        self.done: dict[Cell, dict[str, Any]] = {}
        self._pool: ProcessPoolExecutor | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        # An interruption can leave an incomplete last line.
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            os.truncate(path, len(whole.encode()))
        for line in whole.splitlines():
            entry = json.loads(line)
            if (entry["model"], entry["reference"]) == (self.model, reference):
                cell = Cell(Sampling(**entry["sampling"]), entry["seed"], entry["count"])
                self.done[cell] = entry["result"]

    def __enter__(self) -> Record:
        if self.workers > 1:
            # The operations are small, so processes with one thread each are faster than threads in one process.
            context = multiprocessing.get_context("spawn")
            given = self.models, self.reference
            self._pool = ProcessPoolExecutor(self.workers, context, _start, given)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def measure(self, cells: Iterable[Cell], title: str) -> None:
        todo = [cell for cell in dict.fromkeys(cells) if cell not in self.done]
        with progress.bar(None, title, sum(cell.count for cell in todo), unit="img") as bar:
            for cell, result in self._measured(todo):
                self.done[cell] = result
                entry = {"model": self.model, "reference": self.reference}
                entry |= asdict(cell) | {"result": result}
                with self.path.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
                bar.update(cell.count)

    def results(self, cells: Iterable[Cell]) -> list[dict[str, Any]]:
        return [self.done[cell] for cell in cells]

    def _measured(self, cells: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
        if self._pool is not None:
            for done in as_completed([self._pool.submit(_measure, cell) for cell in cells]):
                yield done.result()
            return
        for cell in cells:
            yield cell, self.yardstick.measure(cell)

    @functools.cached_property
    def yardstick(self) -> Yardstick:
        """The yardstick of this process, built at its first use."""
        return Yardstick(self.models, self.reference)


_yardstick: Yardstick  # set in the worker processes only


def _start(models: Models, reference: int) -> None:
    global _yardstick
    # The parent process handles Ctrl-C for all workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _yardstick = Yardstick(models, reference)


def _measure(cell: Cell) -> tuple[Cell, dict[str, Any]]:
    return cell, _yardstick.measure(cell)


def fingerprint(models: Models) -> str:
    """Hash of all weights, 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for model in vars(models).values():
        for name, tensor in model.state_dict().items():
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
