"""Computes the ratios of one result from the rows that go into the JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Row = dict[str, Any]

TORCH_FAMILIES = ("baddbmm", "separable")
NAIVE_FAMILIES = ("naive_eager", "naive_fft", "naive_compiled")
# A step that writes into a given output is compared with a copy that does the same.
LIMIT = {"ours_out": "copy_out", "copy_out": "copy_out"}
DEFAULT_LIMIT = "copy_fresh"


def timed(rows: Iterable[Row]) -> list[Row]:
    """The rows that have a figure: their contender was not refused and did not fail."""
    return [row for row in rows if "median_us" in row]


def fastest(rows: Iterable[Row], families: Iterable[str], exact: bool = False) -> Row | None:
    """The row with the smallest median among the families. With ``exact``, only results within the bound count."""
    wanted = set(families)
    found = [r for r in timed(rows) if r["family"] in wanted and (not exact or r.get("verdict") == "exact")]
    return min(found, key=lambda row: float(row["median_us"]), default=None)


def limit_of(rows: Iterable[Row], name: str) -> Row | None:
    """The row of the copy that a contender is compared with."""
    wanted = LIMIT.get(name, DEFAULT_LIMIT)
    return next((row for row in timed(rows) if row["name"] == wanted), None)


def add_bandwidth(rows: list[Row], bytes_moved: int) -> None:
    """Adds the bandwidth, the time over the copy limit and the share of that limit to every timed row."""
    for row in timed(rows):
        row["gbytes_per_s"] = bytes_moved / row["median_us"] / 1e3
        copy = limit_of(rows, row["name"])
        if copy is not None:
            row["over_copy"] = row["median_us"] / copy["median_us"]
            row["copy_share"] = copy["median_us"] / row["median_us"]


def ratios(rows: list[Row]) -> dict[str, Any]:
    """For each approach, its fastest formulation and how many times as long as ours it takes."""
    mine = fastest(rows, ["ours"])
    approaches: Mapping[str, tuple[tuple[str, ...], bool]] = {
        **{family: ((family,), False) for family in (*TORCH_FAMILIES, *NAIVE_FAMILIES)},
        "best_torch": (TORCH_FAMILIES, False),
        "best_exact_torch": (TORCH_FAMILIES, True),
    }
    found: dict[str, Any] = {}
    for approach, (families, exact) in approaches.items():
        row = fastest(rows, families, exact)
        if row is not None:
            found[approach] = {"name": row["name"], "median_us": row["median_us"]}
            if mine is not None:
                found[approach]["over_ours"] = row["median_us"] / mine["median_us"]
    return found
