"""Runs an evaluation: loads the recipe, generates, measures and reports."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from ssg_kernels.evaluate import arguments, measure, metrics, outputs, recipes, reference, repeat, samples
from ssg_kernels.evaluate.folder import Folder, Item, write
from ssg_kernels.evaluate.generation import Generation, Keep, plan
from ssg_kernels.evaluate.outputs import Outputs
from ssg_kernels.evaluate.ranks import Ranks
from ssg_kernels.evaluate.recipe import EvaluateError, Recipe, Source
from ssg_kernels.evaluate.reference import Reference
from ssg_kernels.evaluate.setting import Setting, grid, names

KNOWN = ("fid", "kid", "is", "precision", "recall", "clip_score")


@dataclasses.dataclass
class Evaluation:
    """What the arguments ask for."""

    given: dict[str, Any]
    recipe: Recipe
    settings: dict[str, Setting]
    images: int
    metrics: list[str]

    @classmethod
    def of(cls, given: dict[str, Any]) -> Evaluation:
        recipe = recipes.find(given["recipe"])()
        try:
            options = arguments.options(dict(recipe.options), given["options"])
        except ValueError as reason:
            raise EvaluateError(str(reason)) from None
        settings = grid(arguments.axes(given), options)
        wanted = list(given["metrics"] or recipe.metrics)
        unknown = [name for name in wanted if name not in {*KNOWN, *recipe.metrics}]
        if unknown:
            raise EvaluateError(
                f"--metrics {unknown[0]}: choose from {', '.join(dict.fromkeys((*KNOWN, *recipe.metrics)))}"
            )
        images = given["images"] or recipe.images
        return cls(given, recipe, dict(zip(names(settings), settings, strict=True)), images, wanted)

    @property
    def seeds(self) -> list[int]:
        return list(dict.fromkeys(self.given["seeds"]))

    def items(self) -> list[Item]:
        return plan(list(self.settings.items()), self.seeds, self.images, self.recipe.chunk)

    def source(self, device: str) -> Source:
        given = self.given
        return Source(given["upstream"], tuple(given["weights"]), given["prompts"], device)

    def identity(self) -> dict[str, Any]:
        """What the chunks depend on. A folder holds chunks of one identity."""
        given = self.given
        return {
            "recipe": self.recipe.name,
            "images": self.images,
            "seeds": self.seeds,
            "settings": [setting.values() for setting in self.settings.values()],
            "chunk": self.recipe.chunk,
            "metrics": self.metrics,
            "clip": given["clip"] or outputs.CLIP if "clip_score" in self.metrics else None,
            "keep": sorted(given["keep"]),
            "weights": [_fingerprint(path) for path in given["weights"]],
            "upstream": repeat.commit(given["upstream"]),
            "prompts": given["prompts"] and _fingerprint(given["prompts"]),
            "reference": given["reference"] and _fingerprint(given["reference"]),
        }


def run(given: dict[str, Any], command: Sequence[str]) -> int:
    evaluation = Evaluation.of(given)
    if given["out"] is None:
        raise EvaluateError("name a folder for the results: --out DIR")
    folder = Folder(given["out"])
    with Ranks() as ranks, ExitStack() as held:
        device = ranks.device(given["device"])
        _first_alone(ranks, lambda: held.enter_context(folder.held(evaluation.identity())))
        networks, compared, by = _prepared(evaluation, ranks, device)
        if not folder.path.is_dir():
            raise EvaluateError(
                f"this rank does not see {folder.path}: all machines must share the folder --out"
            )
        keep = Keep("png" in given["keep"], "npz" in given["keep"])
        start = time.time()
        speed = Generation(folder, evaluation.recipe, networks, ranks, keep).run(evaluation.items())
        if not ranks.first:
            return 0
        results: dict[str, Any] = {
            "recipe": evaluation.recipe.name,
            "model": evaluation.recipe.model,
            "rows": _rows(evaluation, folder, compared, device),
            "images": evaluation.images,
            "seeds": evaluation.seeds,
            "unmeasured": measure.unmeasured(evaluation.metrics, compared),
            "computed by": by,
            "paper": [dataclasses.asdict(row) for row in evaluation.recipe.paper],
            "repeat": repeat.facts(command, evaluation.identity(), device, ranks.count),
            "images a second": speed,
            "seconds": time.time() - start,
        }
        results["best"] = measure.best(results["rows"])
        write(folder.path / "results.json", json.dumps(results, indent=1).encode())
        _report(evaluation, folder, results)
    return 0


def _report(evaluation: Evaluation, folder: Folder, results: dict[str, Any]) -> None:
    from ssg_kernels.evaluate import report

    if "npz" in evaluation.given["keep"]:
        for name in evaluation.settings:
            for seed in evaluation.seeds:
                samples.write_npz(folder, _of(evaluation.items(), name, seed))
    shown = {name: _of(evaluation.items(), name, evaluation.seeds[0]) for name in evaluation.settings}
    report.write_all(folder, evaluation.recipe, list(evaluation.settings), shown, results)


def _first_alone(ranks: Ranks, act: Any) -> None:
    """The first rank acts. If it fails, all ranks raise its error."""
    error: EvaluateError | None = None
    if ranks.first:
        try:
            act()
        except EvaluateError as reason:
            error = reason
    ranks.share(error)


def _prepared(
    evaluation: Evaluation, ranks: Ranks, device: str
) -> tuple[Outputs, Reference | None, dict[str, str]]:
    """The model and the networks are loaded on every rank; the first one has the reference too."""
    error: EvaluateError | None = None
    compared: Reference | None = None
    by: dict[str, str] = {}
    try:
        by = metrics.check(evaluation.metrics, evaluation.images)
        evaluation.recipe.load(evaluation.source(device))
        clip = evaluation.given["clip"] or outputs.CLIP
        networks = outputs.outputs(evaluation.recipe, evaluation.metrics, device, clip)
        if ranks.first:
            compared = _reference(evaluation, networks)
    except EvaluateError as reason:
        error = reason
    for others in ranks.gather(error, lambda: None):
        if others is not None:
            raise others
    return networks, compared, by


def _reference(evaluation: Evaluation, networks: Outputs) -> Reference | None:
    if networks.network is None:
        return None
    path = evaluation.given["reference"]
    if path is not None:
        return reference.load(path, networks.network)
    own = evaluation.recipe.reference()
    return reference.of_batches(own, networks.network, evaluation.recipe.name) if own is not None else None


def _rows(
    evaluation: Evaluation, folder: Folder, compared: Reference | None, device: str
) -> list[dict[str, Any]]:
    items = evaluation.items()
    rows = []
    for name, setting in evaluation.settings.items():
        chunks = {seed: _of(items, name, seed) for seed in evaluation.seeds}
        found = {
            seed: measure.measure(folder, group, evaluation.metrics, evaluation.recipe, compared, device)
            for seed, group in chunks.items()
        }
        digests = {seed: measure.digest(folder, group) for seed, group in chunks.items()}
        rows.append(measure.row(setting.values(), found, digests))
    return rows


def _of(items: Sequence[Item], name: str, seed: int) -> list[Item]:
    return [item for item in items if (item.name, item.seed) == (name, seed)]


def _fingerprint(path: Path) -> str:
    """Name, size, and a hash of the first and the last megabyte of a file; the name of a folder."""
    if not path.is_file():
        return str(path.resolve())
    size = path.stat().st_size
    with path.open("rb") as file:
        ends = file.read(2**20)
        file.seek(max(size - 2**20, 0))
        ends += file.read()
    return f"{path.name}, {size} bytes, {hashlib.sha256(ends).hexdigest()[:12]}"


def dry_run(given: dict[str, Any]) -> int:
    """Prints what would run, and estimates the time from one chunk without guidance and one with it."""
    evaluation = Evaluation.of(given)
    recipe, items = evaluation.recipe, evaluation.items()
    total = evaluation.images * len(evaluation.settings) * len(evaluation.seeds)
    print(f"{recipe.name}: {recipe.summary}")
    print("\n".join(f"  {name}" for name in evaluation.settings))
    print(
        f"{len(evaluation.settings)} settings x {len(evaluation.seeds)} seeds x {evaluation.images} images = {total} "
        f"images, in {len(items)} chunks of {recipe.chunk}; metrics: {', '.join(evaluation.metrics)}"
    )
    ranks = Ranks()
    device = ranks.device(given["device"])
    recipe.load(evaluation.source(device))
    seconds = 0.0
    for guided in (False, True):
        group = [item for item in items if item.setting.guided == guided]
        if group:
            recipe.generate(group[0].setting, group[0].seed, group[0].first, group[0].count)  # warms up
            start = time.perf_counter()
            recipe.generate(group[0].setting, group[0].seed, group[0].first, group[0].count)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            each = (time.perf_counter() - start) / group[0].count
            print(f"{'with' if guided else 'without'} guidance: {1 / each:.1f} images a second")
            seconds += each * sum(item.count for item in group)
    print(
        f"about {_time(seconds)} of generation on one {device.partition(':')[0]}, divided by the number of ranks"
    )
    return 0


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
