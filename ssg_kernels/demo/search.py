"""Where each row of the study is at its best: a sweep of small cells, a shortlist, and the neighbours of its best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ssg_kernels.demo.design import ROWS, Design
from ssg_kernels.demo.generate import Sampling
from ssg_kernels.demo.record import Cell, Record

SWEEP_SEED, MIDDLE_SEED = 1001, 2001


def operating_points(record: Record, design: Design, rows: Iterable[str] = ROWS) -> dict[str, Sampling]:
    """Of each row the sampling of the least Frechet distance."""
    sweeps = {row: sweep(design, row) for row in rows}
    record.measure([cell for cells in sweeps.values() for cell in cells], "sweep")
    lists = {
        row: [_again(cell.sampling, design) for cell in _ranked(record, cells)[: design.shortlist]]
        for row, cells in sweeps.items()
    }
    record.measure([cell for cells in lists.values() for cell in cells], "shortlist")
    for cells in lists.values():
        best = _ranked(record, cells)[0].sampling
        cells += [_again(near, design) for near in neighbours(best, design)]
    record.measure([cell for cells in lists.values() for cell in cells], "neighbours")
    return {row: _ranked(record, cells)[0].sampling for row, cells in lists.items()}


def best_of_each_cfg(record: Record, design: Design, row: str) -> list[Sampling]:
    """For each cfg of the sweep the temperature and the beta of the least Frechet distance in it."""
    cells = _ranked(record, sweep(design, row))
    return [next(cell.sampling for cell in cells if cell.sampling.cfg == cfg) for cfg in design.cfgs]


def sweep(design: Design, row: str) -> list[Cell]:
    betas: Sequence[float | None] = (None,) if row == "baseline" else design.betas
    return [
        Cell(
            replace(Sampling(cfg=cfg, temperature=temperature, beta=beta), **ROWS[row]),
            SWEEP_SEED,
            design.coarse,
        )
        for cfg in design.cfgs
        for temperature in design.temperatures
        for beta in betas
    ]


def neighbours(best: Sampling, design: Design) -> list[Sampling]:
    """Half a step up and down on each axis; beyond the sweep too, where `best` is at its edge."""
    axes = {"cfg": design.cfgs, "temperature": design.temperatures, "beta": design.betas}
    near = []
    for name, values in axes.items():
        own: float | None = getattr(best, name)
        if own is not None:
            changed: list[Any] = [{name: value} for value in halfway(values, own) if value != own]
            near += [replace(best, **change) for change in changed]
    return near


def halfway(values: Sequence[float], value: float) -> tuple[float, float]:
    """Between `value` and the one before it, and the one after; beyond its ends a lattice goes on, but not below 0."""
    i = values.index(value)
    step = values[1] - values[0] if len(values) > 1 else value
    below = values[i - 1] if i else max(0.0, value - step)
    above = values[i + 1] if i + 1 < len(values) else value + (values[i] - values[i - 1] if i else step)
    return round((below + value) / 2, 6), round((value + above) / 2, 6)


def at_edge(best: Sampling, design: Design) -> list[str]:
    """The axes on which the operating point is at the edge of the sweep or beyond: it may lie further out.

    Without cfg there is nothing below 0, and a small beta is next to none at all, which the baseline measures.
    """
    edges = {
        "cfg": best.cfg >= design.cfgs[-1],
        "temperature": not design.temperatures[0] < best.temperature < design.temperatures[-1],
        "beta": best.beta is not None and best.beta >= design.betas[-1],
    }
    return [name for name, edge in edges.items() if edge]


def _again(sampling: Sampling, design: Design) -> Cell:
    return Cell(sampling, MIDDLE_SEED, design.middle)


def _ranked(record: Record, cells: Iterable[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda cell: record.done[cell]["frechet"])
