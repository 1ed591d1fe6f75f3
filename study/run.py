"""The whole study: chooses the operating points, measures rows and curves, and returns the findings."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from ssg_kernels.demo import data
from ssg_kernels.demo.generate import Sampling, generate
from ssg_kernels.demo.metrics import spectrum
from ssg_kernels.demo.weights import Models
from ssg_kernels.evaluate.recipes.demo import REFERENCE_SEED
from study import search, summary
from study.design import TABLE, Design
from study.record import Cell, Record


def run(record: Record, design: Design) -> dict[str, Any] | None:
    """Measures all cells. Returns the findings that `report.write` presents on the first rank, and None on others."""
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
    compared = _curves(record, design, curves)
    if not record.ranks.first:
        return None
    return {
        "design": asdict(design),
        "model": record.model,
        "floors": _floors(record, design),
        "rows": {
            row: summary.summarise(record, cells, rows)
            | {"at edge": search.at_edge(record, design, best[row])}
            for row, cells in rows.items()
        },
        "curves": compared,
        "latents": _latents(record.models, best["dse"], design.latents),
        "data spectrum": spectrum(data.images(design.reference, REFERENCE_SEED)[0]).tolist(),
    }


def _betas(sampling: Sampling, design: Design) -> list[Sampling]:
    """No beta, then the curve's betas and the one that `sampling` has, in ascending order."""
    betas = {*design.curve_betas, *filter(None, (sampling.beta,))}
    return [replace(sampling, beta=beta) for beta in (None, *sorted(betas))]


def _seeds(sampling: Sampling, count: int, seeds: int, first: int) -> list[Cell]:
    return [Cell(sampling, first + i, count) for i in range(seeds)]


def _curves(
    record: Record, design: Design, curves: dict[str, dict[str, list[Sampling]]]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Compares each point of a curve with two others.

    The first is the baseline's point at the same place. A curve without a baseline has its own first point, which is
    unguided, in its stead. The second is the baseline at the temperature that gives it the same score.
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
                summary.summarise(record, group, {"baseline": other})
                | {"minus baseline at equal score": summary.at_equal_score(record, group, line)}
                for group, other in zip(points, kinds.get("baseline", points[:1] * len(points)), strict=True)
            ]
            for row, points in kinds.items()
        }
        for name, kinds in cells.items()
    }


def _floors(record: Record, design: Design) -> dict[str, Any]:
    """Measures fresh images of the data, and their reconstructions by the tokenizer."""
    tokenizer, device = record.models.tokenizer, record.models.transformer.head.weight.device
    results: dict[str, list[dict[str, Any]]] = {"data": [], "reconstructed": []}
    for seed in range(1, design.seeds + 1):
        images, _ = data.images(design.confirm, REFERENCE_SEED + 100 + seed)
        again = [tokenizer.decode(tokenizer.encode(part.to(device))).cpu() for part in images.split(250)]
        results["data"].append(record.judge(images))
        results["reconstructed"].append(record.judge(torch.cat(again)))
    return {name: summary.means(measured) for name, measured in results.items()}


def _latents(models: Models, guided: Sampling, count: int) -> dict[str, Any]:
    """Log magnitude of the latents' Fourier transform after each scale: with SSG minus without (Fig. 4a).

    Gives means and standard errors over pairs of images that are drawn from the same random numbers.
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
            radii, rings = _by_radius(log.mean(1))
            parts[k].append(rings)

        generate(models, labels, 1, sampling, watch=add)
        logs.append([torch.cat(part) for part in parts])
    changes = [
        [summary.mean_and_error(ring.tolist()) for ring in (a - b).unbind(1)]
        for a, b in zip(*logs, strict=True)
    ]
    nyquist = [None, *(n / 2 for n in sizes[:-1])]
    return {"sizes": sizes, "radii": radii.tolist(), "change": changes, "previous nyquist": nyquist}


def _by_radius(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Averages (..., n, n) maps, indexed like an FFT's output, over equal frequencies.

    Returns:
        The frequencies (F,) in cycles per side, and the means (..., F).
    """
    n = maps.shape[-1]
    along = torch.fft.fftfreq(n, 1 / n)
    squares = (along[:, None] ** 2 + along[None, :] ** 2).round()
    values = squares.unique()
    return values.sqrt(), torch.stack([maps[..., squares == value].mean(-1) for value in values], -1)
