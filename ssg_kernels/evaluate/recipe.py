"""What a recipe is: a model, and the protocol by which it is sampled and measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ssg_kernels.evaluate.setting import Setting

# From images (B, 3, H, W), uint8, to "features" (B, D), "logits" (B, C) if the network classifies, and whatever else
# the recipe's `extra_metrics` needs.
Network = Callable[[Tensor], Mapping[str, Tensor]]


class EvaluateError(Exception):
    """Something that the user can mend. The message is a sentence that says what and how."""


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper that a recipe reproduces.

    Args:
        table: such as "Table 1".
        name: the row's name, such as "VAR-d16 + SSG".
        conditions: values that a setting must have to be this row.
        metrics: the paper's figures, by the names that this package uses.
    """

    table: str
    name: str
    conditions: Mapping[str, Any]
    metrics: Mapping[str, float]

    def is_of(self, setting: Mapping[str, Any]) -> bool:
        return all(setting.get(name) == value for name, value in self.conditions.items())


# The conditions of a row with SSG as the paper describes it.
AS_IN_THE_PAPER = {"prior": "dse", "schedule": "linear", "rescale": False}


@dataclass(frozen=True)
class Source:
    """Where a recipe finds its model.

    Args:
        upstream: folder of the model's own code, a git checkout.
        weights: files or folders, in the order that the recipe's `weights` names.
        prompts: file of prompts, for models of text.
        device: where the model runs.
    """

    upstream: Path | None = None
    weights: tuple[Path, ...] = ()
    prompts: Path | None = None
    device: str = "cpu"


@dataclass
class Samples:
    """Generated images.

    Args:
        images: (B, 3, H, W), uint8.
        tokens: (B, L), where the sampler gives them.
        unrounded: what the recipe's own network sees instead of `images`, where a recipe measures more than a PNG
            holds.
    """

    images: Tensor
    tokens: Tensor | None = None
    unrounded: Tensor | None = None


class Recipe(ABC):
    """Derive from this class, fill in the class variables, and write `load` and `generate`.

    The images of an evaluation are numbered. An image must depend on its number, the seed and the setting alone, so
    that the result does not depend on how the work is spread. A sampler that draws a whole batch from one generator
    meets this by making chunk after chunk: images [i * chunk, (i + 1) * chunk) from one seed that depends on i.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    upstream: ClassVar[str] = ""  # the repository and commit that the recipe was written for
    weights: ClassVar[tuple[str, ...]] = ()  # what each file of --weights is
    options: ClassVar[Mapping[str, Any]] = {}  # names and defaults for --set
    paper: ClassVar[tuple[PaperRow, ...]] = ()
    images: ClassVar[int] = 50_000  # that the protocol asks for
    chunk: ClassVar[int] = (
        50  # images of one call of `generate`. A part of the protocol, as it fixes the seeds
    )
    metrics: ClassVar[tuple[str, ...]] = ("fid", "kid", "is", "precision", "recall")
    manifold: ClassVar[int | None] = None  # images on each side that precision and recall compare; None: all

    model_name: str = ""  # which of its models `load` found, where the paper has rows for several

    @abstractmethod
    def load(self, source: Source) -> None:
        """Loads the model. Raises EvaluateError, with a sentence, if something is missing or wrong."""

    @abstractmethod
    def generate(self, setting: Setting, seed: int, first: int, count: int) -> Samples:
        """Makes the images with the numbers first to first + count - 1. `first` is a multiple of `chunk`."""

    def prompt(self, index: int) -> str:
        """What image `index` was asked to show. CLIPScore compares the image with it, and pictures name it."""
        return str(index)

    def network(self) -> Network | None:
        """The feature network of the metrics, or None for Inception."""
        return None

    def reference(self) -> Iterator[Tensor] | None:
        """Batches of reference images (B, 3, H, W), uint8, to compare with if the user names no reference."""
        return None

    def extra_metrics(self, outputs: Mapping[str, Tensor]) -> dict[str, float]:
        """Metrics of the recipe's own, from the network's outputs for all images in order."""
        return {}


def chunk_seed(seed: int, first: int) -> int:
    """Seed of the chunk that starts at image `first`: well mixed, 31 bits, and another for each (seed, first)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + first * 0xD1B54A32D192ED03 + 0x8CB92BA72F3D8DD7) & (2**64 - 1)
    # The finaliser of splitmix64: neighbouring numbers give unrelated seeds.
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & (2**64 - 1)
    return (mixed ^ (mixed >> 31)) >> 33
