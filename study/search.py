"""Finds the best sampling of each row: a sweep of small cells first, then fewer and larger cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ssg_kernels.demo.generate import Sampling
from study.design import ROWS, Design
from study.record import Cell, Record

SWEEP_SEED, MIDDLE_SEED, FINAL_SEED = 1001, 2001, 3001


def operating_points(record: Record, design: Design, rows: Iterable[str] = ROWS) -> dict[str, Sampling]:
    """The sampling with the least Frechet distance of each row."""
    sweeps = {row: sweep(design, row) for row in rows}
    record.measure([cell for cells in sweeps.values() for cell in cells], "sweep")
    lists = {
        row: [_middle(cell.sampling, design) for cell in _ranked(record, cells)[: design.shortlist]]
        for row, cells in sweeps.items()
    }
    record.measure([cell for cells in lists.values() for cell in cells], "shortlist")
    for cells in lists.values():
        best = _ranked(record, cells)[0].sampling
        cells += [_middle(near, design) for near in neighbours(best, design)]
    record.measure([cell for cells in lists.values() for cell in cells], "neighbours")
    finals = {
        row: [
            Cell(cell.sampling, FINAL_SEED, design.final)
            for cell in _ranked(record, dict.fromkeys(cells))[: design.finalists]
        ]
        for row, cells in lists.items()
    }
    record.measure([cell for cells in finals.values() for cell in cells], "finalists")
    return {row: _ranked(record, cells)[0].sampling for row, cells in finals.items()}


def sweep(design: Design, row: str) -> list[Cell]:
    """The cells of the first stage: every combination of cfg, temperature and beta."""
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
    """The samplings half a step from `best` on each axis. At an edge, one of them lies outside the sweep."""
    near = []
    for name, values in _axes(design).items():
        own: float | None = getattr(best, name)
        if own is not None:
            changed: list[Any] = [{name: value} for value in halfway(values, own) if value != own]
            near += [replace(best, **change) for change in changed]
    return near


def halfway(values: Sequence[float], value: float) -> tuple[float, float]:
    """The midpoints between `value` and its two neighbours in `values`.

    Beyond an end of `values` the last step is repeated, but no neighbour is below 0.
    """
    i = values.index(value)
    step = values[1] - values[0] if len(values) > 1 else value
    below = values[i - 1] if i else max(0.0, value - step)
    above = values[i + 1] if i + 1 < len(values) else value + (values[i] - values[i - 1] if i else step)
    return round((below + value) / 2, 6), round((value + above) / 2, 6)


def at_edge(record: Record, design: Design, best: Sampling) -> list[str]:
    """The axes on which the least distance may lie outside the measured range.

    On these axes the operating point is outside the sweep, or at its end with nothing measured beyond. A cfg of 0 is
    never an edge, as no cfg is below 0.
    """
    edges = []
    for name, values in _axes(design).items():
        own = getattr(best, name)
        if own is None or own == 0:
            continue
        beyond = not values[0] <= own <= values[-1]
        if own in (values[0], values[-1]):
            near = halfway(values, own)[0 if own == values[0] else 1]
            changed: dict[str, Any] = {name: near}
            beyond = _middle(replace(best, **changed), design) not in record.done
        if beyond:
            edges.append(name)
    return edges


def _axes(design: Design) -> dict[str, tuple[float, ...]]:
    return {"cfg": design.cfgs, "temperature": design.temperatures, "beta": design.betas}


def _middle(sampling: Sampling, design: Design) -> Cell:
    return Cell(sampling, MIDDLE_SEED, design.middle)


def _ranked(record: Record, cells: Iterable[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda cell: record.done[cell]["frechet"])
