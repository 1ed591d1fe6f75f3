"""Evaluates settings of a loaded recipe: generates what is missing, and measures it. All ranks take part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssg_kernels.evaluate import measure, outputs, reference
from ssg_kernels.evaluate.folder import Folder, Item
from ssg_kernels.evaluate.generation import Generation, Keep
from ssg_kernels.evaluate.outputs import Outputs
from ssg_kernels.evaluate.ranks import Ranks
from ssg_kernels.evaluate.recipe import Recipe
from ssg_kernels.evaluate.reference import Reference
from ssg_kernels.evaluate.setting import Setting


@dataclass(frozen=True)
class Evaluation:
    """What is compared: every setting, with every seed.

    Args:
        settings: by their names, as `setting.names` gives them.
        seeds, images: each setting draws `images` images with each seed.
        metrics: what is measured.
        keep: which samples are kept.
    """

    settings: Mapping[str, Setting]
    seeds: Sequence[int]
    images: int
    metrics: Sequence[str]
    keep: Keep = field(default_factory=Keep)

    def items(self, chunk: int) -> list[Item]:
        """All chunks. Those with the same images follow each other, so that all settings grow alike."""
        return [
            Item(setting, name, seed, first, min(chunk, self.images - first))
            for seed in self.seeds
            for first in range(0, self.images, chunk)
            for name, setting in self.settings.items()
        ]

    def identity(self) -> dict[str, Any]:
        """What the chunks of a folder depend on, as far as it is named here."""
        return {
            "images": self.images,
            "seeds": list(self.seeds),
            "settings": [setting.values() for setting in self.settings.values()],
            "metrics": list(self.metrics),
            "keep": sorted(name for name, on in vars(self.keep).items() if on),
        }


@dataclass(frozen=True)
class Evaluator:
    """A loaded recipe and what measures its images, on one rank."""

    recipe: Recipe
    networks: Outputs
    reference: Reference | None
    ranks: Ranks
    device: str

    @classmethod
    def prepare(
        cls,
        recipe: Recipe,
        wanted: Sequence[str],
        ranks: Ranks,
        device: str,
        compared: Path | None = None,
        clip: str | None = None,
    ) -> Evaluator:
        """Loads the networks of the metrics, on every rank, and the reference.

        Args:
            recipe: it is loaded.
            wanted: the metrics.
            ranks: all of them call this.
            device: of this rank.
            compared: the reference. None for the recipe's own.
            clip: the CLIP model, if it is not the default.

        Raises:
            EvaluateError: weights or packages are missing, or the reference is wrong.
        """
        made: list[Outputs] = []
        ranks.together(lambda: made.append(outputs.outputs(recipe, wanted, device, clip or outputs.CLIP)))
        (networks,) = made
        return cls(
            recipe, networks, ranks.share(lambda: _reference(recipe, networks, compared)), ranks, device
        )

    def evaluate(self, evaluation: Evaluation, folder: Folder) -> tuple[list[dict[str, Any]], float]:
        """Makes the missing chunks, and measures every setting with every seed.

        Returns:
            A row for each setting, as `measure.row` has it, and the generated images a second, on all ranks.

        Raises:
            EvaluateError: chunks could not be made, or not be measured.
        """
        items = evaluation.items(self.recipe.chunk)
        speed = Generation(folder, self.recipe, self.networks, self.ranks, evaluation.keep).run(items)
        groups: dict[tuple[str, int], list[Item]] = {}
        for item in items:
            groups.setdefault((item.name, item.seed), []).append(item)
        mine = list(groups)[self.ranks.rank :: self.ranks.count]
        parts = self.ranks.together(
            lambda: {key: self._measured(evaluation, folder, groups[key]) for key in mine}
        )
        found = {key: value for part in parts for key, value in part.items()}
        rows = []
        for name, setting in evaluation.settings.items():
            by_seed = {seed: found[name, seed] for seed in evaluation.seeds}
            rows.append(measure.row(setting.values(), by_seed))
        return rows, speed

    def _measured(
        self, evaluation: Evaluation, folder: Folder, items: Sequence[Item]
    ) -> tuple[dict[str, float], str]:
        figures = measure.measure(folder, items, evaluation.metrics, self.recipe, self.reference, self.device)
        return figures, measure.digest(folder, items)


def _reference(recipe: Recipe, networks: Outputs, compared: Path | None) -> Reference | None:
    if networks.network is None:
        return None
    if compared is not None:
        return reference.load(compared, networks.network)
    own = recipe.reference()
    return reference.of_batches(own, networks.network) if own is not None else None
