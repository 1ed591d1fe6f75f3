"""The table of an evaluation, with the paper's figures beside ours: as Markdown, as CSV, and cell by cell."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssg_kernels.evaluate.recipe import PaperRow, Recipe

TITLES = {
    "fid": "FID ↓",
    "kid": "KID ↓",
    "is": "IS ↑",
    "precision": "precision ↑",
    "recall": "recall ↑",
    "clip_score": "CLIPScore ↑",
    "accuracy": "accuracy ↑",
}
_DIGITS = {"fid": 3, "kid": 5, "is": 2}  # of values below 10


@dataclass(frozen=True)
class Table:
    """Cells as text. The first column has the names of the settings."""

    head: list[str]
    rows: list[list[str]]
    best: int | None


def table(results: Mapping[str, Any], names: Sequence[str], recipe: Recipe) -> Table:
    """The table of the results. `names` are those of the settings."""
    rows = results["rows"]
    measured = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    found = [paper_row(recipe, row["setting"]) for row in rows]
    beside = [name for name in measured if any(other and name in other.metrics for other in found)]
    head = ["setting"]
    for name in measured:
        head.append(TITLES.get(name, name))
        head += ["paper"] if name in beside else []
    cells = []
    for label, row, other in zip(names, rows, found, strict=True):
        line = [label]
        for name in measured:
            line.append(cell(name, row["metrics"].get(name)))
            if name in beside:
                line.append(f"{other.metrics[name]:g}" if other and name in other.metrics else "")
        cells.append(line)
    return Table(head, cells, results["best"])


def paper_row(recipe: Recipe, setting: Mapping[str, Any]) -> PaperRow | None:
    """The paper's row for a setting: of those that fit, the one with the most conditions.

    The paper keeps to the protocol, which is the temperature 1 and the recipe's defaults.
    """
    protocol = {"temperature": 1.0, **recipe.options}
    if any(setting[name] != value for name, value in protocol.items()):
        return None
    fitting = [row for row in recipe.paper if row.is_of({"model": recipe.model_name, **setting})]
    return max(fitting, key=lambda row: len(row.conditions), default=None)


def cell(name: str, figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return ""
    digits = _DIGITS.get(name, 4) if figure["value"] < 10 else 2
    error = "" if figure["error"] is None else f" ± {figure['error']:.{digits}f}"
    return f"{figure['value']:.{digits}f}{error}"


def markdown(table: Table) -> str:
    lines = ["| " + " | ".join(table.head) + " |", "| --- " + "| ---: " * (len(table.head) - 1) + "|"]
    for i, row in enumerate(table.rows):
        first = f"**{row[0]}**" if i == table.best else row[0]
        lines.append("| " + " | ".join([first, *row[1:]]) + " |")
    return "\n".join(lines)


def as_csv(results: Mapping[str, Any], recipe: Recipe) -> str:
    """A line for each row, with every value of its setting."""
    rows = results["rows"]
    settings = list(rows[0]["setting"])
    measured = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*settings, *(f"{name}{end}" for name in measured for end in ("", " error", " paper"))])
    for row in rows:
        line = [row["setting"][name] for name in settings]
        other = paper_row(recipe, row["setting"])
        for name in measured:
            figure = row["metrics"].get(name, {"value": None, "error": None})
            line += [figure["value"], figure["error"], other.metrics.get(name) if other else None]
        writer.writerow(line)
    return text.getvalue()
