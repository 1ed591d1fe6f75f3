"""Means and standard errors over the seeds, and differences that are paired by seed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from study.record import Cell, Record


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean of independent repeats and its standard error, which is NaN for a single value."""
    array = np.asarray(values, dtype=np.float64)
    error = array.std(ddof=1) / len(array) ** 0.5 if len(array) > 1 else float("nan")
    return float(array.mean()), float(error)


def means(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard error over the seeds of each figure, and of each ring of the spectrum."""
    found: dict[str, Any] = {
        name: mean_and_error([result[name] for result in results])
        for name in results[0]
        if name != "spectrum"
    }
    rings = zip(*(result["spectrum"] for result in results), strict=True)
    return found | {"spectrum": [mean_and_error(list(ring)) for ring in rings]}


def summarise(record: Record, cells: list[Cell], rows: dict[str, list[Cell]]) -> dict[str, Any]:
    """The means of `cells`, and their differences from the rows "baseline" and "dse" where `rows` has these."""
    results = record.results(cells)
    summary: dict[str, Any] = {"sampling": asdict(cells[0].sampling)} | means(results)
    for other in ("baseline", "dse"):
        if other in rows:
            pairs = list(zip(results, record.results(rows[other]), strict=True))
            summary[f"minus {other}"] = {
                name: mean_and_error([a[name] - b[name] for a, b in pairs])
                for name in results[0]
                if name != "spectrum"
            }
    return summary


def at_equal_score(record: Record, cells: list[Cell], line: list[list[Cell]]) -> tuple[float, float] | None:
    """Frechet distance of `cells` minus the distance that `line` has at the same score, by linear interpolation.

    Args:
        record: has measured all cells.
        cells: one per seed.
        line: the points to compare with, each with the same seeds as `cells`.

    Returns:
        Mean and standard error over the seeds. None if a seed's score lies outside the scores of `line`.
    """
    differences = []
    for i, mine in enumerate(record.results(cells)):
        points = [record.done[group[i]] for group in line]
        scores, distances = zip(*sorted((p["score"], p["frechet"]) for p in points), strict=True)
        if not scores[0] <= mine["score"] <= scores[-1]:
            return None
        differences.append(mine["frechet"] - float(np.interp(mine["score"], scores, distances)))
    return mean_and_error(differences)
