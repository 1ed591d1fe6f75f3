"""The table of instruction sets: its ratios, and one process that serves turns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bench import capabilities


def worker(name: str, *seconds: float) -> Any:
    turns = iter(seconds)
    return SimpleNamespace(capability=name, turn=lambda case, dtype: next(turns))


def test_a_ratio_is_the_median_over_the_turns() -> None:
    workers = [worker("avx512", 1, 2, 1, 1, 4), worker("avx2", 2, 2, 3, 2, 8)]
    row = capabilities.measure(workers, "var256-1-2", "float32", budget=0.0)
    assert row["ms"] == {"avx512": 1e3, "avx2": 2e3}
    assert row["ratio"] == {"avx512": 1.0, "avx2": 2.0}
    assert capabilities.table([row]).splitlines() == [
        "| step | dtype | avx512, ms | avx2, ms | avx2 / avx512 |",
        "| --- | --- | ---: | ---: | ---: |",
        "| VAR-256, 1 → 2 | float32 | 1e+03 | 2e+03 | 2.00 |",
    ]


@pytest.mark.usefixtures("extension")
def test_a_process_for_an_instruction_set() -> None:
    baseline = capabilities.Worker("baseline", threads=1)
    assert baseline.capability == "baseline"
    assert 0 < baseline.turn("var256-1-2", "bfloat16") < 60
    baseline.stop()
