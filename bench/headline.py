"""Draws the README's picture: the time of three steps, relative to a copy of their bytes.

``python -m bench.headline IN.json OUT.png``
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import report, summary

CASES = ("var256-13-16", "var512-24-32", "1024px-48-64")
DTYPE = "float32"
# Each approach shows its fastest formulation. The colours also differ in lightness, for printing in grey.
APPROACHES = (
    ("ssg-kernels", ("ours",), "#D55E00"),
    ("separable matmuls, by hand", ("separable",), "#12263F"),
    ("dense operator, torch.baddbmm", ("baddbmm",), "#2F5F8F"),
    ("paper's algorithm, torch.compile", ("naive_compiled",), "#8FB3D3"),
    ("paper's algorithm, eager", ("naive_eager", "naive_fft"), "#CBD5E0"),
)


def steps(document: dict[str, Any]) -> list[tuple[dict[str, Any], summary.Row]]:
    """The results to draw, each with its copy limit. Raises ValueError if one of them was not measured."""
    found = {
        result["case"]["name"]: result
        for result in document["results"]
        if result["dtype"] == DTYPE and result["caches"] == "warm"
    }
    drawn = []
    for case in CASES:
        limit = summary.limit_of(found[case]["contenders"], "ours") if case in found else None
        if limit is None:
            raise ValueError(f"the results hold no {case} in {DTYPE} with its copy limit")
        drawn.append((found[case], limit))
    return drawn


def draw(document: dict[str, Any], path: Path) -> None:
    """Writes the picture to ``path`` (PNG), without the approaches that were not measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = steps(document)
    fastest = {
        label: [summary.fastest(result["contenders"], families) for result, _ in drawn]
        for label, families, _ in APPROACHES
    }
    shown = [approach for approach in APPROACHES if any(fastest[approach[0]])]
    figure, axes = pyplot.subplots(figsize=(9.6, 4.4), layout="constrained")
    width = 0.92 / len(shown)
    for order, (label, _, colour) in enumerate(shown):
        for at, (row, (_, limit)) in enumerate(zip(fastest[label], drawn, strict=True)):
            if row is None:
                continue
            x = at + (order - (len(shown) - 1) / 2) * width
            over, low, high = (row[key] / limit["median_us"] for key in ("median_us", "p20_us", "p80_us"))
            # Bars start at the copy limit, because a logarithmic axis has no zero to start from.
            axes.bar(x, over - 1, 0.9 * width, bottom=1, color=colour, label=label if at == 0 else None)
            axes.vlines(x, low, high, color="#777777", linewidth=1.2)
            axes.annotate(
                report.format_time(row["median_us"]),
                xy=(x, max(over, high)),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                fontweight="bold" if order == 0 else "normal",
            )
    axes.axhline(1, color="#222222", linewidth=1.4, linestyle=(0, (5, 3)))
    axes.annotate(
        "a copy of the same bytes takes this long",
        xy=(0.995, 1),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=9,
    )
    axes.set_yscale("log")
    axes.set_ylim(bottom=min(0.7, axes.get_ylim()[0]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.set_ylabel("time of a step, in copies of its bytes")
    axes.set_xticks(range(len(drawn)), [_tick(*step) for step in drawn])
    axes.set_xlim(-0.55, len(drawn) - 0.45)
    axes.tick_params(axis="x", length=0, labelsize=10)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9.5)
    machine, versions = document["machine"], document["versions"]
    figure.supxlabel(
        f"{machine['cpu']}, {report.threads(machine)}, {machine['simd']}, torch {versions['torch']}, "
        f"{document['run']['date'][:10]}; {DTYPE}, V = {drawn[0][0]['case']['vocab']}; medians, lines from p20 to p80",
        fontsize=8,
        color="#666666",
    )
    figure.savefig(path, dpi=160)
    pyplot.close(figure)


def _tick(result: dict[str, Any], limit: summary.Row) -> str:
    case = result["case"]
    step = f"{case['prev_size'][0]}x{case['prev_size'][1]} → {case['size'][0]}x{case['size'][1]}"
    return f"{step}, {case['group']}\ncopy: {report.format_time(limit['median_us'])}"


def main(arguments: Sequence[str]) -> None:
    results, picture = map(Path, arguments)
    draw(json.loads(results.read_text(encoding="utf-8")), picture)
    print(picture)


if __name__ == "__main__":
    main(sys.argv[1:])
