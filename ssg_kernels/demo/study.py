"""`python -m ssg_kernels.demo.study`: measures what guidance does to the demo model, and goes on where it was cut."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssg_kernels.demo import data, metrics, report, search, weights
from ssg_kernels.demo.design import TABLE, Design
from ssg_kernels.demo.generate import Sampling, generate
from ssg_kernels.demo.record import REFERENCE_SEED, Cell, Record
from ssg_kernels.demo.weights import Models


def run(record: Record, design: Design) -> dict[str, Any]:
    """Measures all cells and returns what the report is made of."""
    best = search.operating_points(record, design)
    rows = {row: _seeds(sampling, design.confirm, design.seeds, 1) for row, sampling in best.items()}
    record.measure([cell for cells in rows.values() for cell in cells], "operating points")
    curves = {
        "cfg": {row: [replace(best[row], cfg=t) for t in design.curve_cfgs] for row in TABLE},
        "beta": {
            "at the best cfg and temperature": _betas(best["dse"], design),
            "at the default sampling": _betas(Sampling(), design),
        },
        "temperature": {
            row: [replace(best[row], temperature=t) for t in design.curve_temperatures]
            for row in ("baseline", "dse")
        },
    }
    return {
        "design": asdict(design),
        "model": record.model,
        "floors": _floors(record, design),
        "rows": {
            row: _summary(record, cells, rows) | {"at edge": search.at_edge(record, design, best[row])}
            for row, cells in rows.items()
        },
        "curves": _curves(record, design, curves),
        "latents": _latents(record.models, best["dse"], design.latents),
        "data spectrum": metrics.spectrum(data.images(design.reference, REFERENCE_SEED)[0]).tolist(),
    }


def _betas(sampling: Sampling, design: Design) -> list[Sampling]:
    """Along beta from none at all, with what `sampling` has among them."""
    betas = {*design.curve_betas, *filter(None, (sampling.beta,))}
    return [replace(sampling, beta=beta) for beta in (None, *sorted(betas))]


def _seeds(sampling: Sampling, count: int, seeds: int, first: int) -> list[Cell]:
    return [Cell(sampling, first + i, count) for i in range(seeds)]


def _curves(
    record: Record, design: Design, curves: dict[str, dict[str, list[Sampling]]]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Each point beside the baseline's at the same place, or beside the curve's own first, which is unguided.

    And beside the baseline of whatever temperature has the same score.
    """
    cells = {
        name: {
            row: [_seeds(s, design.curve, design.seeds, 101) for s in points] for row, points in kinds.items()
        }
        for name, kinds in curves.items()
    }
    for name, kinds in cells.items():
        record.measure([cell for points in kinds.values() for group in points for cell in group], name)
    line = cells["temperature"]["baseline"]
    return {
        name: {
            row: [
                _summary(record, group, {"baseline": other})
                | {"minus baseline at equal score": _at_equal_score(record, group, line)}
                for group, other in zip(points, kinds.get("baseline", points[:1] * len(points)), strict=True)
            ]
            for row, points in kinds.items()
        }
        for name, kinds in cells.items()
    }


def _at_equal_score(record: Record, cells: list[Cell], line: list[list[Cell]]) -> tuple[float, float] | None:
    """Frechet distance minus that between the two points of `line` that have the score between them, paired by seed.

    None where a seed's score is beyond those of `line`.
    """
    differences = []
    for i, mine in enumerate(record.results(cells)):
        points = [record.done[group[i]] for group in line]
        scores, distances = zip(*sorted((p["score"], p["frechet"]) for p in points), strict=True)
        if not scores[0] <= mine["score"] <= scores[-1]:
            return None
        differences.append(mine["frechet"] - float(np.interp(mine["score"], scores, distances)))
    return metrics.mean_and_error(differences)


def _floors(record: Record, design: Design) -> dict[str, Any]:
    """What the data themselves reach, and what the tokenizer makes of them: images of seeds of their own."""
    tokenizer, device = record.models.tokenizer, record.models.transformer.head.weight.device
    results: dict[str, list[dict[str, Any]]] = {"data": [], "reconstructed": []}
    for seed in range(1, design.seeds + 1):
        images, labels = data.images(design.confirm, REFERENCE_SEED + 100 + seed)
        again = [tokenizer.decode(tokenizer.encode(part.to(device))).cpu() for part in images.split(250)]
        results["data"].append(record.yardstick.judge(images, labels))
        results["reconstructed"].append(record.yardstick.judge(torch.cat(again), labels))
    return {name: _means(measured) for name, measured in results.items()}


def _summary(record: Record, cells: list[Cell], rows: dict[str, list[Cell]]) -> dict[str, Any]:
    """Means and standard errors over the seeds, and the paired differences from the baseline and from "dse"."""
    results = record.results(cells)
    summary: dict[str, Any] = {"sampling": asdict(cells[0].sampling)} | _means(results)
    for other in ("baseline", "dse"):
        if other in rows:
            pairs = list(zip(results, record.results(rows[other]), strict=True))
            summary[f"minus {other}"] = {
                name: metrics.mean_and_error([a[name] - b[name] for a, b in pairs])
                for name in results[0]
                if name != "spectrum"
            }
    return summary


def _means(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard error over the seeds of each figure, and of each ring of the spectrum."""
    means: dict[str, Any] = {
        name: metrics.mean_and_error([r[name] for r in results]) for name in results[0] if name != "spectrum"
    }
    rings = zip(*(r["spectrum"] for r in results), strict=True)
    return means | {"spectrum": [metrics.mean_and_error(list(ring)) for ring in rings]}


def _latents(models: Models, guided: Sampling, count: int) -> dict[str, Any]:
    """Log magnitude of the latents' Fourier transform after each scale, with SSG minus without (Fig. 4a).

    Means and standard errors over images that are drawn from the same random numbers.
    """
    sizes = models.tokenizer.config.sizes
    labels = torch.arange(count) % len(data.CLASSES)
    logs: list[list[Tensor]] = []
    radii = torch.zeros(0)
    for sampling in (guided, replace(guided, beta=None)):
        parts: list[list[Tensor]] = [[] for _ in sizes]

        def add(k: int, latent: Tensor, parts: list[list[Tensor]] = parts) -> None:
            nonlocal radii
            log = torch.fft.fft2(latent.double().cpu(), norm="ortho").abs().clamp(min=1e-9).log()
            radii, rings = metrics.by_radius(log.mean(1))
            parts[k].append(rings)

        generate(models, labels, 1, sampling, watch=add)
        logs.append([torch.cat(part) for part in parts])
    changes = [
        [metrics.mean_and_error(ring.tolist()) for ring in (a - b).unbind(1)]
        for a, b in zip(*logs, strict=True)
    ]
    nyquist = [None, *(n / 2 for n in sizes[:-1])]
    return {"sizes": sizes, "radii": radii.tolist(), "change": changes, "previous nyquist": nyquist}


def main(argv: Sequence[str] | None = None) -> int:
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(
        prog="python -m ssg_kernels.demo.study", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("build/demo/study.jsonl"), help="measured cells")
    parser.add_argument("--out", type=Path, default=Path("docs/study"), help="JSON, table and pictures")
    parser.add_argument("--device", default=default, help="where to generate")
    parser.add_argument("--workers", type=int, help="processes; on a CPU one for each core, else 1")
    arguments = parser.parse_args(argv)
    workers = arguments.workers or (_cores() if arguments.device == "cpu" else 1)
    design = Design()
    models = weights.load(device=arguments.device)
    with Record(arguments.work, models, design.reference, workers) as record:
        found = run(record, design)
    report.write(found, arguments.out)
    print("\n".join([*report.table(found), "", *report.front(found)]))
    print(f"Written: {arguments.out}")
    return 0


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
