"""The demo model, measured with its own classifier against fresh images of its data. Runs anywhere."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssg_kernels.demo import data
from ssg_kernels.demo import weights as networks
from ssg_kernels.demo.generate import Sampling, draw, positions
from ssg_kernels.evaluate.recipe import EvaluateError, Network, Recipe, Samples, Source
from ssg_kernels.evaluate.setting import Setting

REFERENCE_SEED = 10**10  # of the data that the study compares with; training used none of it
REFERENCE = 5000  # images
_BATCH = 60  # images at once: larger batches leave the caches of a CPU


class Demo(Recipe):
    name = "demo"
    summary = "the small model that comes with this package; 12 classes, 32x32"
    weights = ("a folder with the networks' weights (default: those in the package)",)
    # The defaults of `ssg_kernels.demo.generate.Sampling`.
    options: ClassVar[Mapping[str, Any]] = {"cfg": 1.0, "top_k": 112, "top_p": 0.96}
    images = 10_000
    chunk = 120
    metrics: ClassVar[tuple[str, ...]] = ("fid", "kid", "is", "precision", "recall", "accuracy")

    def load(self, source: Source) -> None:
        folder = source.weights[0] if source.weights else networks.SHIPPED
        try:
            models = networks.load(folder, source.device)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as reason:
            raise EvaluateError(f"{folder} does not hold the demo's networks: {reason}") from reason
        self.use(models, source.device)

    def use(self, models: networks.Models, device: str) -> None:
        """Takes networks that are loaded already."""
        self.models, self.device = models, device
        self._uniform = _Uniform()

    def drawn(self, setting: Setting, seed: int, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Images (count, 3, 32, 32), float32 in [-1, 1], and their tokens: those of `ssg_kernels.demo.generate`."""
        given = setting.guidance() | {"temperature": setting.temperature} | dict(setting.options)
        sampling = Sampling(**given | {"beta": setting.beta or None})
        uniform = self._uniform.rows(seed, first, count, positions(self.models))
        labels = torch.arange(first, first + count) % len(data.CLASSES)
        return draw(self.models, labels, uniform, sampling, batch=_BATCH)

    def generate(self, setting: Setting, seed: int, first: int, count: int) -> Samples:
        images, tokens = self.drawn(setting, seed, first, count)
        return Samples(to_bytes(images), tokens)

    def prompt(self, index: int) -> str:
        return data.CLASSES[index % len(data.CLASSES)]

    def network(self) -> Network:
        # Convolutions with few channels are faster in this order.
        classifier = copy.deepcopy(self.models.classifier)
        classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        @torch.inference_mode()
        def outputs(images: Tensor) -> Mapping[str, Tensor]:
            pixels = images.to(self.device)
            if images.dtype == torch.uint8:
                pixels = pixels.float() / 127.5 - 1
            features = classifier.features(pixels)
            return {"features": features, "logits": classifier.head(features)}

        return outputs

    def reference(self) -> Iterator[Tensor]:
        images, _ = data.images(REFERENCE, REFERENCE_SEED)
        return (to_bytes(part) for part in images.split(500))

    def extra_metrics(self, outputs: Mapping[str, Tensor]) -> dict[str, float]:
        found = outputs["logits"].argmax(1)
        wanted = torch.arange(len(found)) % len(data.CLASSES)
        return {"accuracy": (found == wanted).double().mean().item()}


def to_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8, rounded to the nearest."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


class _Uniform:
    """The random numbers of `ssg_kernels.demo.generate.generate`, from any image on.

    The numbers of a seed come one after the other, so those of earlier images are drawn and thrown away. Chunks are
    made in ascending order, all settings of a chunk in a row, and so nearly each number is drawn once.
    """

    def __init__(self) -> None:
        self.seed, self.position = -1, 0
        self.latest: tuple[tuple[int, ...], Tensor] = ((), torch.empty(0))

    def rows(self, seed: int, first: int, count: int, width: int) -> Tensor:
        """Row i has the numbers of image `first` + i, (count, width)."""
        if self.latest[0] != (seed, first, count, width):
            self.latest = (seed, first, count, width), self._drawn(seed, first, count, width)
        return self.latest[1]

    def _drawn(self, seed: int, first: int, count: int, width: int) -> Tensor:
        if seed != self.seed or first < self.position:
            self.generator = torch.Generator().manual_seed(seed)
            self.seed, self.position = seed, 0
        while self.position < first:
            skipped = min(first - self.position, 4096)
            torch.rand((skipped, width), generator=self.generator)
            self.position += skipped
        self.position += count
        return torch.rand((count, width), generator=self.generator)
