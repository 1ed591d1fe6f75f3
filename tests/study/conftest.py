"""What the tests of the study run on: networks, a small design, and a list of the cells that were measured."""

from __future__ import annotations

import pytest
from support.demo_models import shipped, tiny

from study.design import Design
from study.record import Cell, Yardstick

__all__ = ["design", "measured", "shipped", "tiny"]


@pytest.fixture
def design() -> Design:
    return Design(
        cfgs=(0.0, 1.0),
        temperatures=(1.0,),
        betas=(0.5,),
        coarse=24,
        shortlist=2,
        middle=24,
        finalists=2,
        final=24,
        seeds=2,
        confirm=36,
        curve=24,
        curve_cfgs=(0.0, 1.0),
        curve_temperatures=(0.5, 1.0),
        curve_betas=(0.2,),
        reference=60,
        latents=12,
    )


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """The cells that were measured, as opposed to read from the file."""
    cells: list[Cell] = []
    measure = Yardstick.measure

    def noting(self: Yardstick, cell: Cell) -> dict[str, object]:
        cells.append(cell)
        return measure(self, cell)

    monkeypatch.setattr(Yardstick, "measure", noting)
    return cells
