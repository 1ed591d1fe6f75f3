"""`python -m ssg_kernels.demo.study`: measures what guidance does to the demo model, and goes on where it was cut."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from ssg_kernels.demo import data, metrics, report, weights
from ssg_kernels.demo.generate import Sampling, generate
from ssg_kernels.demo.weights import Models

# Table 5 of the paper ("linear" is bilinear interpolation in space, "static" is DSE without decay) ...
TABLE: dict[str, dict[str, Any]] = {
    "baseline": {"beta": None},
    "nearest": {"prior": "spatial", "interpolation": "nearest"},
    "linear": {"prior": "spatial"},
    "dse zero-padded": {"prior": "dse_zero_pad"},
    "dse": {},
    "dse static": {"schedule": "static"},
}
# ... and what the paper leaves open.
CONVENTIONS: dict[str, dict[str, Any]] = {
    "dse rescaled": {"rescale": True},
    "dse zero-padded rescaled": {"prior": "dse_zero_pad", "rescale": True},
    "dse nearest": {"interpolation": "nearest"},
    "dse bicubic": {"interpolation": "bicubic"},
    "dse area": {"interpolation": "area"},
    "dse guided, then merged": {"cfg_order": "before"},
}
ROWS = TABLE | CONVENTIONS
REFERENCE_SEED = 10**10  # the data that everything is compared with; training saw none of it


@dataclass(frozen=True)
class Design:
    """How much is measured: small cells find the operating points, which are confirmed with `confirm` images a seed."""

    cfgs: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.5)
    temperatures: tuple[float, ...] = (0.85, 1.0, 1.15)
    betas: tuple[float, ...] = (0.15, 0.3, 0.6)
    coarse: int = 500
    shortlist: int = 4
    middle: int = 2000
    confirm: int = 10000
    curve: int = 2000
    points: int = 5
    seeds: int = 5
    curve_temperatures: tuple[float, ...] = tuple(round(0.5 + 0.1 * i, 1) for i in range(11))
    curve_betas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2)
    reference: int = 20000
    latents: int = 2000


@dataclass(frozen=True)
class Cell:
    sampling: Sampling
    seed: int
    count: int


class Record:
    """Measured cells, one JSON object a line; a cell that is there is not measured again."""

    def __init__(self, path: Path, models: Models, reference: int) -> None:
        self.path, self.models, self.reference = path, models, reference
        self.model = _fingerprint(models)
        self.done: dict[Cell, dict[str, Any]] = {}
        self._real: metrics.Features | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        # A line that was cut while it was written has no end.
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole)
        for line in whole.splitlines():
            entry = json.loads(line)
            if (entry["model"], entry["reference"]) == (self.model, reference):
                cell = Cell(Sampling(**entry["sampling"]), entry["seed"], entry["count"])
                self.done[cell] = entry["result"]

    def measure(self, cells: Iterable[Cell], title: str) -> None:
        todo = [cell for cell in dict.fromkeys(cells) if cell not in self.done]
        patience = 0.5 if sys.stderr.isatty() else 60
        total = sum(cell.count for cell in todo)
        with tqdm(total=total, desc=title, unit="img", mininterval=patience, maxinterval=patience) as bar:
            for cell in todo:
                self.done[cell] = self._measure(cell)
                entry = {"model": self.model, "reference": self.reference}
                entry |= asdict(cell) | {"result": self.done[cell]}
                with self.path.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
                bar.update(cell.count)

    def results(self, cells: Iterable[Cell]) -> list[dict[str, Any]]:
        return [self.done[cell] for cell in cells]

    def _measure(self, cell: Cell) -> dict[str, Any]:
        labels = torch.arange(cell.count) % len(data.CLASSES)
        images, _ = generate(self.models, labels, cell.seed, cell.sampling)
        made, real = metrics.features(self.models.classifier, images), self._reference()
        precision, recall = metrics.precision_recall(made.features, real.features)
        return {
            "frechet": metrics.frechet(made.features, real.features),
            "score": made.score(),
            "accuracy": made.accuracy(labels),
            "precision": precision,
            "recall": recall,
            "spectrum": metrics.spectrum(images).tolist(),
        }

    def _reference(self) -> metrics.Features:
        if self._real is None:
            images, _ = data.images(self.reference, REFERENCE_SEED)
            self._real = metrics.features(self.models.classifier, images)
        return self._real


def run(record: Record, design: Design) -> dict[str, Any]:
    """Measures all cells and returns what the report is made of."""
    best = {row: _operating_point(record, design, row) for row in ROWS}
    rows = {row: _seeds(sampling, design.confirm, design.seeds, 1) for row, sampling in best.items()}
    record.measure([cell for cells in rows.values() for cell in cells], "confirmation")
    fronts = {row: _front(record, design, row) for row in TABLE}
    at_best = {"baseline": best["baseline"], "dse": best["dse"]}
    by_temperature = {
        row: [replace(sampling, temperature=t) for t in design.curve_temperatures]
        for row, sampling in at_best.items()
    }
    by_beta = [best["dse"], *(replace(best["dse"], beta=beta) for beta in design.curve_betas)]
    by_beta = [replace(best["dse"], beta=None), *sorted(set(by_beta), key=lambda s: s.beta or 0)]
    curves = {"front": fronts, "temperature": by_temperature, "beta": {"dse": by_beta}}
    return {
        "design": asdict(design),
        "model": record.model,
        "rows": {row: _summary(record, cells, rows) for row, cells in rows.items()},
        "curves": {name: _curves(record, design, kind, name) for name, kind in curves.items()},
        "latents": _latents(record.models, best["dse"], design.latents),
        "data spectrum": metrics.spectrum(data.images(design.reference, REFERENCE_SEED)[0]).tolist(),
    }


def _grid(design: Design, row: str) -> list[Sampling]:
    betas: Sequence[float | None] = (None,) if row == "baseline" else design.betas
    return [
        replace(Sampling(cfg=cfg, temperature=temperature, beta=beta), **ROWS[row])
        for cfg in design.cfgs
        for temperature in design.temperatures
        for beta in betas
    ]


def _operating_point(record: Record, design: Design, row: str) -> Sampling:
    """The sampling of the least Frechet distance: the coarse sweep's best, measured again with other seeds."""
    coarse = [Cell(sampling, 1001, design.coarse) for sampling in _grid(design, row)]
    record.measure(coarse, f"{row}, sweep")
    ranked = sorted(coarse, key=lambda cell: record.done[cell]["frechet"])
    middle = [Cell(cell.sampling, 2001, design.middle) for cell in ranked[: design.shortlist]]
    record.measure(middle, f"{row}, shortlist")
    return min(middle, key=lambda cell: record.done[cell]["frechet"]).sampling


def _front(record: Record, design: Design, row: str) -> list[Sampling]:
    """Samplings of the sweep that no other beats in both distance and accuracy, in order of accuracy."""
    cells = [Cell(sampling, 1001, design.coarse) for sampling in _grid(design, row)]
    front: list[Cell] = []
    for cell in sorted(cells, key=lambda cell: record.done[cell]["frechet"]):
        if not front or record.done[cell]["accuracy"] > record.done[front[-1]]["accuracy"]:
            front.append(cell)
    step = max(1, (len(front) - 1) / max(design.points - 1, 1))
    chosen = sorted({round(i * step) for i in range(design.points) if round(i * step) < len(front)})
    return [front[i].sampling for i in chosen]


def _seeds(sampling: Sampling, count: int, seeds: int, first: int) -> list[Cell]:
    return [Cell(sampling, first + i, count) for i in range(seeds)]


def _curves(
    record: Record, design: Design, kinds: dict[str, list[Sampling]], title: str
) -> dict[str, list[dict[str, Any]]]:
    cells = {
        row: [_seeds(s, design.curve, design.seeds, 11) for s in points] for row, points in kinds.items()
    }
    record.measure([cell for points in cells.values() for group in points for cell in group], title)
    return {row: [_summary(record, group, {}) for group in points] for row, points in cells.items()}


def _summary(record: Record, cells: list[Cell], rows: dict[str, list[Cell]]) -> dict[str, Any]:
    """Means and standard errors over the seeds, and the paired differences from the baseline and from "dse"."""
    results = record.results(cells)
    names = [name for name in results[0] if name != "spectrum"]
    summary: dict[str, Any] = {"sampling": asdict(cells[0].sampling)}
    summary |= {name: metrics.mean_and_error([r[name] for r in results]) for name in names}
    summary["spectrum"] = torch.tensor([r["spectrum"] for r in results]).mean(0).tolist()
    for other in ("baseline", "dse"):
        if other in rows:
            pairs = list(zip(results, record.results(rows[other]), strict=True))
            summary[f"minus {other}"] = {
                name: metrics.mean_and_error([a[name] - b[name] for a, b in pairs]) for name in names
            }
    return summary


def _latents(models: Models, guided: Sampling, count: int) -> dict[str, Any]:
    """Mean log magnitude of the latents' Fourier transform after each scale, with SSG minus without (Fig. 4a)."""
    sizes = models.tokenizer.config.sizes
    labels = torch.arange(count) % len(data.CLASSES)
    total: list[list[Tensor]] = []
    radii = torch.zeros(0)
    for sampling in (guided, replace(guided, beta=None)):
        sums = [torch.zeros(()) for _ in sizes]

        def add(k: int, latent: Tensor, sums: list[Tensor] = sums) -> None:
            nonlocal radii
            log = torch.fft.fft2(latent.double().cpu(), norm="ortho").abs().clamp(min=1e-9).log()
            radii, rings = metrics.by_radius(log.mean(1))
            sums[k] = sums[k] + rings.sum(0)

        generate(models, labels, 1, sampling, watch=add)
        total.append(sums)
    changes = [((a - b) / count).tolist() for a, b in zip(*total, strict=True)]
    nyquist = [None, *(n / 2 for n in sizes[:-1])]
    return {"sizes": sizes, "radii": radii.tolist(), "change": changes, "previous nyquist": nyquist}


def _fingerprint(models: Models) -> str:
    digest = hashlib.sha256()
    for model in vars(models).values():
        for name, tensor in model.state_dict().items():
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def main(argv: Sequence[str] | None = None) -> int:
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(
        prog="python -m ssg_kernels.demo.study", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("build/demo/study.jsonl"), help="measured cells")
    parser.add_argument("--out", type=Path, default=Path("docs/study"), help="JSON, table and pictures")
    parser.add_argument("--device", default=default, help="where to generate")
    arguments = parser.parse_args(argv)
    design = Design()
    record = Record(arguments.work, weights.load(device=arguments.device), design.reference)
    report.write(run(record, design), arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
