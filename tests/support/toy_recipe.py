"""A recipe for tests: images of random pixels, and two numbers a channel as features. It makes 12 images a chunk.

Environment variables make it slow, or make it fail. TOY_SLEEP is the seconds a chunk takes. TOY_FAIL names the first
image of a chunk that always fails. `TOY_FAIL_ONCE` is a file: if it is there, the next chunk deletes it and fails.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssg_kernels.evaluate import EvaluateError, PaperRow, Recipe, Samples, Setting, Source


class Toy(Recipe):
    name = "toy"
    summary = "random pixels"
    options: ClassVar[Mapping[str, Any]] = {"cfg": 1.5, "top_k": 900, "smooth": False}
    paper = (
        PaperRow("Table 1", "Toy", {"beta": 0.0}, {"fid": 3.42, "is": 275.6}),
        PaperRow("Table 1", "Toy + SSG", {"prior": "dse"}, {"fid": 3.27}),
    )
    images = 48
    chunk = 12

    def load(self, source: Source) -> None:
        if source.weights and not source.weights[0].exists():
            raise EvaluateError(f"there are no weights {source.weights[0]}")

    def generate(self, setting: Setting, seed: int, first: int, count: int) -> Samples:
        time.sleep(float(os.environ.get("TOY_SLEEP", "0")))
        if os.environ.get("TOY_FAIL") == str(first):
            raise RuntimeError("out of memory\nlong trace")
        once = os.environ.get("TOY_FAIL_ONCE")
        if once and Path(once).exists():
            Path(once).unlink()
            raise RuntimeError("once")
        return Samples(torch.stack([image(seed, first + i, setting.beta) for i in range(count)]))

    def network(self) -> Any:
        return network

    def reference(self) -> Iterator[Tensor]:
        return (torch.stack([image(99, 10 * i + j, 0.0) for j in range(10)]) for i in range(8))


def image(seed: int, index: int, beta: float) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + index)
    pixels = torch.rand(3, 8, 8, generator=generator) * (200 + 40 * beta)
    return pixels.byte()


def network(images: Tensor) -> Mapping[str, Tensor]:
    flat = images.float().flatten(2) / 10
    features = torch.cat([flat.mean(2), flat.std(2)], 1)
    return {"features": features, "logits": features}
