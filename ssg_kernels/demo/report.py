"""What the study found, as JSON, a table and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ssg_kernels.demo import figures

COLUMNS = {
    "frechet": "FD",
    "accuracy": "class accuracy",
    "score": "score",
    "precision": "precision",
    "recall": "recall",
}


def write(found: dict[str, Any], folder: Path) -> None:
    """Writes study.json, table.md and the pictures to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "table.md").write_text("\n".join(table(found)) + "\n")
    figures.curves(found["curves"]["front"], folder / "front.png", "each at the best points of its sweep")
    figures.curves(found["curves"]["temperature"], folder / "temperature.png", "temperature 0.5 to 1.5")
    figures.curves(found["curves"]["beta"], folder / "beta.png", "beta")
    figures.latents(found["latents"], folder / "latents.png")
    energies = {row: torch.tensor(found["rows"][row]["spectrum"]) for row in ("baseline", "dse")}
    figures.spectra(energies, torch.tensor(found["data spectrum"]), folder / "spectrum.png")


def table(found: dict[str, Any]) -> list[str]:
    """Markdown: each row at the operating point of its least distance, mean and standard error over the seeds."""
    head = ["", "cfg", "temperature", "beta", *COLUMNS.values(), "FD minus baseline", "FD minus dse"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    for row, summary in found["rows"].items():
        sampling = summary["sampling"]
        beta = "" if sampling["beta"] is None else f"{sampling['beta']:g}"
        cells = [row, f"{sampling['cfg']:g}", f"{sampling['temperature']:g}", beta]
        cells += [_with_error(summary[name]) for name in COLUMNS]
        cells += [
            "" if row == other else _with_error(summary[f"minus {other}"]["frechet"])
            for other in ("baseline", "dse")
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _with_error(pair: tuple[float, float]) -> str:
    mean, error = pair
    return f"{mean:.3f} ± {error:.3f}"
