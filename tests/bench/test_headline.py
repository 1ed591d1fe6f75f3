"""The README's picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import cases, headline


def document(*names: str, copy: bool = True) -> dict[str, Any]:
    rows = [
        {"name": name, "family": name, "median_us": time, "p20_us": time, "p80_us": time, "verdict": "exact"}
        for name, time in (("ours", 10.0), ("baddbmm", 20.0), ("copy_fresh", 5.0))
        if copy or name != "copy_fresh"
    ]
    return {
        "results": [
            {"case": case.as_json(), "dtype": "float32", "caches": "warm", "contenders": rows}
            for case in cases.select(names)
        ],
        "run": {"date": "2000-01-01"},
        "machine": {"cpu": "a CPU", "torch_threads": 1, "simd": "AVX2"},
        "versions": {"torch": "2"},
    }


def test_draws_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    headline.draw(document(*headline.CASES), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("incomplete", "missing"),
    [
        (document(*headline.CASES[:2]), headline.CASES[2]),
        (document(*headline.CASES, copy=False), headline.CASES[0]),
    ],
)
def test_refuses_an_incomplete_run(incomplete: dict[str, Any], missing: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"the results hold no {missing} in float32"):
        headline.draw(incomplete, tmp_path / "x.png")
