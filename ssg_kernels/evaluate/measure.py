"""From chunks to rows: the metrics of each setting, with standard errors over the seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssg_kernels.evaluate import metrics
from ssg_kernels.evaluate.folder import Folder, Item
from ssg_kernels.evaluate.outputs import OTHERS
from ssg_kernels.evaluate.recipe import EvaluateError, Recipe
from ssg_kernels.evaluate.reference import Reference
from ssg_kernels.evaluate.setting import differ_in_alone

_OF_FEATURES = (
    "kid",
    "precision",
    "recall",
)  # these need the features of the reference, not its statistics alone


def unmeasured(wanted: Sequence[str], reference: Reference | None) -> dict[str, str]:
    """Why some of the metrics cannot be had with this reference."""
    if reference is None:
        return {name: "there is no --reference" for name in wanted if name in ("fid", *_OF_FEATURES)}
    if reference.features is None:
        return {name: "the reference has mu and sigma only" for name in wanted if name in _OF_FEATURES}
    return {}


def measure(
    folder: Folder,
    items: Sequence[Item],
    wanted: Sequence[str],
    recipe: Recipe,
    reference: Reference | None,
    device: str,
) -> dict[str, float]:
    """The metrics of one setting and one seed. `items` are all its chunks, in order."""
    names = folder.arrays(items[0])
    arrays = {name: torch.from_numpy(folder.read(items, name)) for name in names if name not in OTHERS}
    found = metrics_of(arrays, wanted, recipe, reference, device)
    if "clip_score" in wanted:
        found["clip_score"] = float(folder.read(items, "clip").mean())
    return {name: found[name] for name in wanted if name in found}


def metrics_of(
    outputs: Mapping[str, Tensor],
    wanted: Sequence[str],
    recipe: Recipe,
    reference: Reference | None,
    device: str,
) -> dict[str, float]:
    """The metrics of images whose network outputs are given."""
    found: dict[str, float] = {}
    if "features" in outputs and reference is not None:
        found |= _distances(outputs["features"].to(device), wanted, recipe, reference, device)
    if "is" in wanted:
        if "logits" not in outputs:
            raise EvaluateError("the inception score needs a feature network that gives logits")
        found["is"] = metrics.inception_score(outputs["logits"])
    return found | recipe.extra_metrics(outputs)


def _distances(
    made: Tensor, wanted: Sequence[str], recipe: Recipe, reference: Reference, device: str
) -> dict[str, float]:
    found: dict[str, float] = {}
    if made.shape[1] != reference.width:
        raise EvaluateError(
            f"the reference has {reference.width} features, and the feature network gives {made.shape[1]}: the "
            f"reference was made with another network"
        )
    real = reference.features.to(device) if reference.features is not None else None
    if "fid" in wanted:
        # In float64, and the CPU is sure to have its eigenvalues.
        found["fid"] = metrics.fid(made.cpu(), reference.statistics or reference.features)  # type: ignore[arg-type]
    if real is not None:
        if "kid" in wanted:
            found["kid"] = metrics.kid(made, real)
        if {"precision", "recall"} & set(wanted):
            found["precision"], found["recall"] = metrics.precision_recall(made, real, recipe.manifold)
    return found


def digest(folder: Folder, items: Sequence[Item]) -> str:
    """Hash of all the images in order."""
    return hashlib.sha256("".join(folder.read(items, "digest")).encode()).hexdigest()[:16]


def row(setting: Mapping[str, Any], seeds: Mapping[int, tuple[Mapping[str, float], str]]) -> dict[str, Any]:
    """A row of the table: means over the seeds, and their standard errors, which are None for a single seed.

    Args:
        setting: its values by name.
        seeds: by seed, the metrics and the digest of the images.
    """
    names = list(next(iter(seeds.values()))[0])
    values = {name: np.array([found[name] for found, _ in seeds.values()]) for name in names}
    return {
        "setting": dict(setting),
        "metrics": {
            name: {
                "value": float(value.mean()),
                "error": float(value.std(ddof=1) / len(value) ** 0.5) if len(value) > 1 else None,
            }
            for name, value in values.items()
        },
        "seeds": {str(seed): dict(found) for seed, (found, _) in seeds.items()},
        "samples": {str(seed): digest for seed, (_, digest) in seeds.items()},
    }


def best(rows: Sequence[Mapping[str, Any]], name: str = "fid") -> int | None:
    """The row that the paper's rule picks, or None without FID.

    Appendix F: beta is taken "from the point just before the FID score begins to degrade significantly". Here: among
    the settings that differ from the one with the lowest FID in beta alone, the largest beta whose FID exceeds the
    lowest one by no more than two standard errors of their difference. With one seed this is the lowest FID.
    """
    scored = [(i, row["metrics"][name]) for i, row in enumerate(rows) if name in row["metrics"]]
    if not scored:
        return None
    lowest, least = min(scored, key=lambda pair: pair[1]["value"])

    def is_as_good(figure: Mapping[str, Any]) -> bool:
        error = np.hypot(figure["error"] or 0.0, least["error"] or 0.0)
        return bool(figure["value"] <= least["value"] + 2 * error)

    sweep = rows[lowest]["setting"]
    close = [
        i for i, figure in scored if differ_in_alone("beta", rows[i]["setting"], sweep) and is_as_good(figure)
    ]
    return max(close, key=lambda i: rows[i]["setting"]["beta"])
