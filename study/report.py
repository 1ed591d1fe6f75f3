"""Writes the findings of the study as JSON, tables and pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from ssg_kernels.demo.figures import spectra
from study import figures

COLUMNS = {
    "frechet": "FD",
    "accuracy": "class accuracy",
    "score": "score",
    "precision": "precision",
    "recall": "recall",
}


def write(found: dict[str, Any], folder: Path) -> None:
    """Writes study.json, table.md (both tables) and the pictures to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(_json(found) + "\n")
    (folder / "table.md").write_text("\n".join([*table(found), "", *front(found)]) + "\n")
    rows, curves = found["rows"], found["curves"]
    differences = {row: rows[row]["minus baseline"]["frechet"] for row in rows if row != "baseline"}
    figures.differences(differences, "Frechet distance minus the baseline's", folder / "rows.png")
    for along, kinds in curves.items():
        figures.curves(kinds, along, folder / f"{along}.png")
    figures.latents(found["latents"], folder / "latents.png")
    # "dse" has another cfg and temperature than "baseline", so its own sampling without SSG is shown too.
    shown = {
        "baseline": rows["baseline"],
        "dse": rows["dse"],
        "dse's sampling, without SSG": curves["beta"]["at the best cfg and temperature"][0],
        "reconstructed": found["floors"]["reconstructed"],
    }
    energies, errors = (
        {name: torch.tensor([pair[i] for pair in part["spectrum"]]) for name, part in shown.items()}
        for i in (0, 1)
    )
    spectra(energies, torch.tensor(found["data spectrum"]), folder / "spectrum.png", errors)


def table(found: dict[str, Any]) -> list[str]:
    """Markdown table of the rows at their operating points: mean and standard error over the seeds.

    Differences are paired by seed. The number in brackets is the difference in standard errors.
    """
    head = ["", "cfg", "temperature", "beta", *COLUMNS.values(), "FD minus baseline", "FD minus dse"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    for name, floor in found["floors"].items():
        figures_of = [_with_error(floor[column]) for column in COLUMNS]
        lines.append(f"| {' | '.join([name, '', '', '', *figures_of, '', ''])} |")
    for row, summary in found["rows"].items():
        cells = [row]
        for name in ("cfg", "temperature", "beta"):
            value = summary["sampling"][name]
            cells.append("" if value is None else f"{value:g}" + "†" * (name in summary["at edge"]))
        cells += [_with_error(summary[name]) for name in COLUMNS]
        cells += [
            "" if row == other else _counted(summary[f"minus {other}"]["frechet"])
            for other in ("baseline", "dse")
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def front(found: dict[str, Any]) -> list[str]:
    """Markdown table of the curves' points.

    Each is compared with the unguided point at the same place, and with the baseline of the same score.
    """
    head = ["", "cfg", "temperature", "beta", "FD", "score", "FD minus unguided", "score minus unguided"]
    head.append("FD minus baseline of equal score")
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    for along, rows in found["curves"].items():
        for row, points in rows.items():
            for point in points:
                setting = (point["sampling"][name] for name in ("cfg", "temperature", "beta"))
                cells = [f"{along}: {row}", *("" if value is None else f"{value:g}" for value in setting)]
                cells += [_with_error(point["frechet"]), _with_error(point["score"])]
                unguided = point["sampling"]["beta"] is None
                cells += [
                    "" if unguided else _counted(point["minus baseline"][name])
                    for name in ("frechet", "score")
                ]
                equal = point["minus baseline at equal score"]
                cells.append("" if unguided or equal is None else _counted(equal))
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def _with_error(pair: tuple[float, float]) -> str:
    mean, error = pair
    return f"{mean:.3f} ± {error:.3f}"


def _counted(pair: tuple[float, float]) -> str:
    mean, error = pair
    return f"{_with_error(pair)} ({mean / error:+.1f})" if error else _with_error(pair)


def _json(found: dict[str, Any]) -> str:
    """Indented JSON that keeps each innermost list on one line."""
    text = json.dumps(found, indent=1)
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda inner: f"[{' '.join(inner[1].split())}]", text)
