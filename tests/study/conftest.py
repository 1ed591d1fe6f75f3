"""What the tests of the study run on: networks, a small design, and a list of what was generated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.demo_models import shipped, tiny

from ssg_kernels.demo.weights import Models
from ssg_kernels.evaluate import Samples, Setting
from ssg_kernels.evaluate.ranks import Ranks
from study.design import Design
from study.record import Record, Study

__all__ = ["design", "made", "record_of", "shipped", "tiny"]


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
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Seed and number of images of each chunk that is made, as opposed to read from its folder."""
    chunks: list[tuple[int, int]] = []
    generate = Study.generate

    def noting(self: Study, setting: Setting, seed: int, first: int, count: int) -> Samples:
        chunks.append((seed, count))
        return generate(self, setting, seed, first, count)

    monkeypatch.setattr(Study, "generate", noting)
    return chunks


@pytest.fixture(scope="session")
def record_of(tiny: Models) -> Callable[[Path], Record]:
    """A record of the tiny networks in a folder, compared with 60 images."""
    return lambda path: Record(path, tiny, 60, Ranks())
