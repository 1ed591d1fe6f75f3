"""Runs an evaluation that the command line asks for: loads the recipe, evaluates and reports."""

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

from ssg_kernels.evaluate import arguments, measure, metrics, outputs, recipes, repeat, samples
from ssg_kernels.evaluate.evaluator import Evaluation, Evaluator
from ssg_kernels.evaluate.folder import Folder, Item, write
from ssg_kernels.evaluate.generation import Keep
from ssg_kernels.evaluate.ranks import Ranks
from ssg_kernels.evaluate.recipe import EvaluateError, Recipe, Source
from ssg_kernels.evaluate.setting import grid, names

KNOWN = ("fid", "kid", "is", "precision", "recall", "clip_score")


def asked_for(given: dict[str, Any]) -> tuple[Recipe, Evaluation]:
    """The recipe, not yet loaded, and the evaluation that the arguments ask for."""
    recipe = recipes.find(given["recipe"])()
    try:
        options = arguments.options(dict(recipe.options), given["options"])
    except ValueError as reason:
        raise EvaluateError(str(reason)) from None
    settings = grid(arguments.axes(given), options)
    wanted = list(dict.fromkeys(given["metrics"] or recipe.metrics))
    known = list(dict.fromkeys((*KNOWN, *recipe.metrics)))
    for name in wanted:
        if name not in known:
            raise EvaluateError(f"--metrics {name}: choose from {', '.join(known)}")
    return recipe, Evaluation(
        dict(zip(names(settings), settings, strict=True)),
        list(dict.fromkeys(given["seeds"])),
        given["images"] or recipe.images,
        wanted,
        Keep("png" in given["keep"], "npz" in given["keep"]),
    )


def _source(given: dict[str, Any], device: str) -> Source:
    return Source(given["upstream"], tuple(given["weights"]), given["prompts"], device)


def _identity(given: dict[str, Any], recipe: Recipe, evaluation: Evaluation) -> dict[str, Any]:
    """What the chunks depend on. A folder holds chunks of one identity."""
    return {
        "recipe": recipe.name,
        **evaluation.identity(),
        "chunk": recipe.chunk,
        "clip": given["clip"] or outputs.CLIP if "clip_score" in evaluation.metrics else None,
        "weights": [_fingerprint(path) for path in given["weights"]],
        "upstream": repeat.commit(given["upstream"]),
        "prompts": given["prompts"] and _fingerprint(given["prompts"]),
        "reference": given["reference"] and _fingerprint(given["reference"]),
    }


def run(given: dict[str, Any], command: Sequence[str]) -> int:
    recipe, evaluation = asked_for(given)
    if given["out"] is None:
        raise EvaluateError("name a folder for the results: --out DIR")
    folder = Folder(given["out"])
    identity = _identity(given, recipe, evaluation)
    with Ranks() as ranks, ExitStack() as held:
        device = ranks.device(given["device"])
        ranks.share(lambda: held.enter_context(folder.held(identity)))
        ranks.together(lambda: _seen(folder))
        (by, *_) = ranks.together(lambda: metrics.check(evaluation.metrics, evaluation.images))
        ranks.together(lambda: recipe.load(_source(given, device)))
        evaluator = Evaluator.prepare(
            recipe, evaluation.metrics, ranks, device, given["reference"], given["clip"]
        )
        start = time.time()
        rows, speed = evaluator.evaluate(evaluation, folder)
        if not ranks.first:
            return 0
        results: dict[str, Any] = {
            "recipe": recipe.name,
            "model": recipe.model_name,
            "rows": rows,
            "images": evaluation.images,
            "seeds": evaluation.seeds,
            "unmeasured": measure.unmeasured(evaluation.metrics, evaluator.reference),
            "computed by": by,
            "paper": [dataclasses.asdict(row) for row in recipe.paper],
            "repeat": repeat.facts(command, identity, device, ranks.count),
            "images a second": speed,
            "seconds": time.time() - start,
            "best": measure.best(rows),
        }
        write(folder.path / "results.json", json.dumps(results, indent=1).encode())
        _report(recipe, evaluation, folder, results)
    return 0


def _seen(folder: Folder) -> None:
    if not folder.path.is_dir():
        raise EvaluateError(f"this rank does not see {folder.path}: all machines must share the folder --out")


def _report(recipe: Recipe, evaluation: Evaluation, folder: Folder, results: dict[str, Any]) -> None:
    from ssg_kernels.evaluate import report

    items = evaluation.items(recipe.chunk)
    if evaluation.keep.npz:
        for name in evaluation.settings:
            for seed in evaluation.seeds:
                samples.write_npz(folder, _of(items, name, seed))
    shown = {name: _of(items, name, evaluation.seeds[0]) for name in evaluation.settings}
    report.write_all(folder, recipe, list(evaluation.settings), shown, results)


def _of(items: Sequence[Item], name: str, seed: int) -> list[Item]:
    return [item for item in items if (item.name, item.seed) == (name, seed)]


def _fingerprint(path: Path) -> str:
    """Of a file its name, size and a hash of its first and last megabyte; of a folder its files and their sizes."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listed = "\n".join(f"{file.relative_to(path)} {file.stat().st_size}" for file in files)
        return f"{path.name}, {len(files)} files, {hashlib.sha256(listed.encode()).hexdigest()[:12]}"
    if not path.is_file():
        return str(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        ends = file.read(2**20)
        file.seek(max(size - 2**20, 0))
        ends += file.read()
    return f"{path.name}, {size} bytes, {hashlib.sha256(ends).hexdigest()[:12]}"


def dry_run(given: dict[str, Any]) -> int:
    """Prints what would run, and estimates the time from one chunk without guidance and one with it."""
    recipe, evaluation = asked_for(given)
    items = evaluation.items(recipe.chunk)
    total = evaluation.images * len(evaluation.settings) * len(evaluation.seeds)
    print(f"{recipe.name}: {recipe.summary}")
    print("\n".join(f"  {name}" for name in evaluation.settings))
    print(
        f"{len(evaluation.settings)} settings x {len(evaluation.seeds)} seeds x {evaluation.images} images = {total} "
        f"images, in {len(items)} chunks of {recipe.chunk}; metrics: {', '.join(evaluation.metrics)}"
    )
    ranks = Ranks()
    device = ranks.device(given["device"])
    recipe.load(_source(given, device))
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
