"""Draws the time per step relative to a copy of its bytes (``python -m bench.plot results.json``)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from . import report, summary

# Okabe and Ito's palette. Each approach has its own marker too, so that colour alone does not identify it.
APPROACHES = (
    ("ours", ("ours",), "ours", "#D55E00", "o"),
    ("separable", ("separable",), "separable, torch.matmul", "#0072B2", "s"),
    ("baddbmm", ("baddbmm",), "dense, torch.baddbmm", "#009E73", "D"),
    ("naive_compiled", ("naive_compiled",), "naive, torch.compile", "#CC79A7", "v"),
    ("naive_eager", ("naive_eager",), "naive, eager", "#7F7F7F", "^"),
    ("naive_fft", ("naive_fft",), "naive, FFT-based DCT", "#000000", "X"),
)


class Point(NamedTuple):
    """Times of an approach's fastest formulation, divided by the median of the copy limit."""

    median: float
    p20: float
    p80: float
    exact: bool


def points(result: dict[str, Any]) -> dict[str, Point]:
    """The points of one result by approach; empty if the copy limit was not measured."""
    rows = result["contenders"]
    copy = summary.limit_of(rows, "ours")
    if copy is None:
        return {}
    found = {}
    for name, families, *_ in APPROACHES:
        row = summary.fastest(rows, families)
        if row is not None:
            median, p20, p80 = (row[key] / copy["median_us"] for key in ("median_us", "p20_us", "p80_us"))
            found[name] = Point(median, p20, p80, row["verdict"] == "exact")
    return found


def _tick(case: dict[str, Any]) -> str:
    batch = f"\nB = {case['batch']}" if case["batch"] > 1 else ""
    return f"{case['prev_size'][0]} → {case['size'][0]}{batch}"


def _groups(results: Sequence[dict[str, Any]]) -> list[tuple[str, list[int]]]:
    """Neighbouring results of one model: (model, positions)."""
    cases = [result["case"] for result in results]
    return [(key, list(at)) for key, at in groupby(range(len(cases)), lambda i: cases[i]["group"])]


def _draw(axes: Any, results: Sequence[dict[str, Any]], dtype: str) -> None:
    measured = [points(result) for result in results]
    groups = _groups(results)
    cases = [result["case"] for result in results]
    for order, (name, _, _, colour, marker) in enumerate(APPROACHES):
        # A line connects the scales of one model at one batch size.
        for _, line in groupby(range(len(results)), lambda i: (cases[i]["group"], cases[i]["batch"])):
            xs = [i for i in line if name in measured[i]]
            if not xs:
                continue
            line_points = [measured[i][name] for i in xs]
            medians = [point.median for point in line_points]
            width, size = (2.0, 8) if name == "ours" else (1.1, 6.5)
            axes.plot(xs, medians, color=colour, linewidth=width, zorder=10 - order)
            for x, point in zip(xs, line_points, strict=True):
                face, edge = (colour, "white") if point.exact else ("white", colour)
                axes.plot(
                    x,
                    point.median,
                    marker=marker,
                    markersize=size if point.exact else size - 1,
                    markerfacecolor=face,
                    markeredgecolor=edge,
                    markeredgewidth=0.7 if point.exact else 1.4,
                    zorder=11 - order,
                )
            axes.vlines(
                xs,
                [point.p20 for point in line_points],
                [point.p80 for point in line_points],
                color=colour,
                linewidth=2.5,
                alpha=0.35,
                zorder=2,
            )
    axes.axhline(1.0, color="#444444", linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
    axes.annotate(
        "copy of the same bytes",
        xy=(1.0, 1.0),
        xycoords=axes.get_yaxis_transform(),
        xytext=(-4, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8.5,
        color="#444444",
    )
    axes.set_yscale("log")
    axes.margins(y=0.09)
    axes.set_xticks(range(len(results)), [_tick(result["case"]) for result in results], fontsize=8.5)
    axes.set_xlim(-0.6, len(results) - 0.4)
    for (_, positions), (_, following) in pairwise(groups):
        axes.axvline((positions[-1] + following[0]) / 2, color="#cccccc", linewidth=0.8, zorder=0)
    for group, positions in groups:
        axes.text(
            (positions[0] + positions[-1]) / 2,
            -0.135,
            group.replace(" cfg", "\nwith cfg"),
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize=9,
            fontweight="bold",
            color="#333333",
        )
    axes.grid(axis="y", which="major", color="#dddddd", linewidth=0.8, zorder=0)
    axes.grid(axis="y", which="minor", color="#f0f0f0", linewidth=0.5, zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(dtype, fontsize=12, fontweight="bold", loc="left")


def draw(document: dict[str, Any], path: Path, caches: str = "warm") -> None:
    """Writes the picture of the ``caches`` results to ``path`` (PNG). Raises ValueError if there are none."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, NullFormatter

    results = [result for result in document["results"] if result["caches"] == caches]
    dtypes = list(dict.fromkeys(result["dtype"] for result in results))
    if not dtypes:
        raise ValueError(f"no results with {caches} caches")
    widest = max(sum(result["dtype"] == dtype for result in results) for dtype in dtypes)
    figure, panels = pyplot.subplots(
        len(dtypes),
        1,
        figsize=(max(7.0, 2.2 + 0.72 * widest), 0.9 + 4.3 * len(dtypes)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, dtype in zip(panels[:, 0], dtypes, strict=True):
        _draw(axes, [result for result in results if result["dtype"] == dtype], dtype)
        axes.set_ylabel("time per step / copy limit")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    shown = {name for result in results for name in points(result)}
    handles = [
        Line2D([], [], color=colour, marker=marker, markeredgecolor="white", markersize=8, label=label)
        for name, _, label, colour, marker in APPROACHES
        if name in shown
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    machine, versions = document["machine"], document["versions"]
    figure.supxlabel(
        f"{machine['cpu']}, {report.threads(machine)}, torch {versions['torch']}, "
        f"{document['run']['date'][:10]}; medians with p20 to p80, {caches} caches; "
        "hollow: beyond the accuracy bound",
        fontsize=8,
        color="#666666",
    )
    figure.savefig(path, dpi=160)
    pyplot.close(figure)


def main(arguments: Sequence[str]) -> None:
    for argument in arguments:
        path = Path(argument)
        draw(json.loads(path.read_text(encoding="utf-8")), path.with_suffix(".png"))
        print(path.with_suffix(".png"))


if __name__ == "__main__":
    main(sys.argv[1:])
