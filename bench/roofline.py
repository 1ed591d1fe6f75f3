"""Draws the roofline picture of a GPU run (``python -m bench.roofline results.json``).

It counts the operations of the separable form with even/odd halves, and the bytes that no step can avoid. The slope is
the copy bandwidth of the same run. The ceiling is the rate of the card's float32 units at its highest clock.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import report, summary

LANES = 128  # float32 multiply-adds per multiprocessor and cycle, on sm_86 and every later architecture
TERMS = 3
MARKERS = {"ours_cuda": ("o", "#D55E00", "ours, CUDA C++"), "ours_triton": ("s", "#0072B2", "ours, Triton")}


def flops(case: dict[str, Any]) -> int:
    """Operations of one step: both contractions of the three terms. The even/odd split halves their number."""
    (prev_h, prev_w), (h, w) = case["prev_size"], case["size"]
    per_column = TERMS * (h * prev_h * prev_w + h * w * prev_w)
    return case["batch"] * case["vocab"] * per_column


def peak_flops(machine: dict[str, Any]) -> float | None:
    """The card's float32 rate from its multiprocessors and highest clock; None if the run did not record them."""
    megahertz = re.findall(r"(\d+) MHz", machine.get("gpu_clocks") or "")
    if not megahertz or "gpu_multiprocessors" not in machine:
        return None
    return 2 * LANES * int(machine["gpu_multiprocessors"]) * int(megahertz[-1]) * 1e6


def copy_bandwidth(document: dict[str, Any]) -> float:
    """Bytes per second of the fastest copy in the run."""
    copies = [
        result["bytes"] / row["median_us"] * 1e6
        for result in document["results"]
        for row in summary.timed(result["contenders"])
        if row["name"] == "copy_fresh"
    ]
    return max(copies)


def draw(document: dict[str, Any], path: Path) -> None:
    """Writes the picture to ``path`` (PNG)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bandwidth, peak = copy_bandwidth(document), peak_flops(document["machine"])
    dtypes = list(dict.fromkeys(result["dtype"] for result in document["results"]))
    figure, panels = pyplot.subplots(
        1, len(dtypes), figsize=(6.2 * len(dtypes), 5), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, dtype in zip(panels[0], dtypes, strict=True):
        results = [result for result in document["results"] if result["dtype"] == dtype]
        intensities = [flops(result["case"]) / result["bytes"] for result in results]
        xs = [min(intensities) / 2, max(intensities) * 2]
        axes.plot(
            xs, [x * bandwidth / 1e12 for x in xs], color="#444444", linestyle="--", label="copy bandwidth"
        )
        if peak is not None:
            axes.axhline(peak / 1e12, color="#999999", linestyle=":", label="float32 units")
        for name, (marker, colour, label) in MARKERS.items():
            points = [
                (x, flops(result["case"]) / row["median_us"] / 1e6, result["case"]["label"])
                for x, result in zip(intensities, results, strict=True)
                for row in summary.timed(result["contenders"])
                if row["name"] == name
            ]
            if not points:
                continue
            axes.scatter(
                *zip(*[(x, y) for x, y, _ in points], strict=True), marker=marker, color=colour, label=label
            )
            for x, y, text in points:
                axes.annotate(
                    text, (x, y), xytext=(5, -3), textcoords="offset points", fontsize=6.5, color="#555555"
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("operations per byte")
        axes.set_title(dtype, loc="left", fontweight="bold")
        axes.grid(which="major", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0][0].set_ylabel("TFLOP/s")
    panels[0][0].legend(frameon=False, loc="lower right")
    machine = document["machine"]
    figure.supxlabel(
        f"{machine.get('gpu', machine['cpu'])}, torch {document['versions']['torch']}, "
        f"{document['run']['date'][:10]}; copy at {report.format_bandwidth(bandwidth)}, cold cache",
        fontsize=8,
        color="#666666",
    )
    figure.savefig(path, dpi=160)
    pyplot.close(figure)


def main(arguments: Sequence[str]) -> None:
    for argument in arguments:
        path = Path(argument)
        picture = path.with_name(f"{path.stem}-roofline.png")
        draw(json.loads(path.read_text(encoding="utf-8")), picture)
        print(picture)


if __name__ == "__main__":
    main(sys.argv[1:])
