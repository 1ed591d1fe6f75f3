"""The table of small calls."""

from __future__ import annotations

from bench import small


def test_a_row_of_the_table() -> None:
    step, threads, *figures = small.row(1, 2, 64, threads=1, budget=0.0).strip("| ").split(" | ")
    assert (step, threads) == ("1 → 2, V = 64", "1")
    assert len(figures) == 3
    assert all(float(us) > 0 for us in figures)
