"""The pictures of a report: FID against IS over the sweep, and images from the same random numbers side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from ssg_kernels.evaluate.folder import write
from ssg_kernels.evaluate.setting import differ_in_alone

COLUMNS = 8


def trade_off(rows: Sequence[Mapping[str, Any]], best: int | None, path: Path) -> bool:
    """Draws FID against IS, as Figures 4b, 5 and 8 of the paper. Returns whether there was something to draw."""
    drawn = [row for row in rows if {"fid", "is"} <= set(row["metrics"])]
    if len(drawn) < 2:
        return False
    along = _sweep(drawn)
    curves = _curves(drawn, along)
    figure, axis = plt.subplots(figsize=(6.4, 4.4))
    for name, points in curves.items():
        ordered = sorted(points, key=lambda row: row["setting"][along])
        (x, x_error), (y, y_error) = (_figures(ordered, metric) for metric in ("is", "fid"))
        axis.errorbar(
            x, y, y_error, x_error, marker="o", markersize=4, linewidth=1, capsize=2, label=name or None
        )
        for row, a, b in zip(ordered, x, y, strict=True):
            axis.annotate(
                f"{row['setting'][along]:g}",
                (a, b),
                textcoords="offset points",
                xytext=(5, 4),
                fontsize="small",
            )
    if best is not None:
        chosen = rows[best]["metrics"]
        axis.plot(
            chosen["is"]["value"], chosen["fid"]["value"], "o", markersize=12, fillstyle="none", color="black",
            label="best by the paper's rule",
        )  # fmt: skip
    axis.set(xlabel="IS (higher is better)", ylabel="FID (lower is better)", title=f"numbers: {along}")
    axis.legend(fontsize="small")
    _save(figure, path)
    return True


def _sweep(rows: Sequence[Mapping[str, Any]]) -> str:
    """The setting that curves follow: the one of beta and temperature with more values."""
    return max(("beta", "temperature"), key=lambda name: len({row["setting"][name] for row in rows}))


def _curves(rows: Sequence[Mapping[str, Any]], along: str) -> dict[str, list[Mapping[str, Any]]]:
    """The curves by name. One along beta starts at the row without guidance, which all of them share."""
    starts = [row for row in rows if along == "beta" and row["setting"]["beta"] == 0]
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row not in starts:
            curves.setdefault(_difference(row["setting"], rows, along), []).append(row)
    for points in curves.values():
        points += [row for row in starts if differ_in_alone(along, row["setting"], points[0]["setting"])]
    return curves or {"": starts}


def _difference(setting: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], along: str) -> str:
    """The values, other than that of `along`, in which the settings of the rows differ."""
    kinds = {
        name: {repr(row["setting"][name]) for row in rows} - {"None"} for name in setting if name != along
    }
    told = [name for name, kind in kinds.items() if len(kind) > 1 and setting[name] is not None]
    return ", ".join(f"{name}={setting[name]}" for name in told)


def _figures(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[float], list[float]]:
    found = [row["metrics"][metric] for row in rows]
    return [figure["value"] for figure in found], [figure["error"] or 0.0 for figure in found]


def side_by_side(images: Mapping[str, np.ndarray], captions: Sequence[str], path: Path) -> None:
    """Draws a row of images (N, H, W, 3) for each setting. Images in one column have the same random numbers."""
    columns = min(COLUMNS, len(captions), *(len(part) for part in images.values()))
    figure, axes = plt.subplots(
        len(images), columns, figsize=(1.5 * columns + 1.2, 1.6 * len(images) + 0.5), squeeze=False
    )
    for line, (name, part) in zip(axes, images.items(), strict=True):
        for i, axis in enumerate(line):
            axis.imshow(part[i], interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set_visible(False)
        line[0].set_ylabel(name.replace(",", "\n"), rotation=0, ha="right", va="center", fontsize="small")
    for axis, caption in zip(axes[0], captions, strict=False):
        axis.set_title(
            "\n".join(textwrap.wrap(caption, 20, max_lines=3, placeholder=" ...")), fontsize="x-small"
        )
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    write(path, lambda file: figure.savefig(file, format="png", dpi=110, metadata={"Software": None}))
    plt.close(figure)
