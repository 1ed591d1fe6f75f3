"""The pictures of the study: differences, curves along a setting, and the latents' spectra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from ssg_kernels.demo.figures import save


def differences(rows: dict[str, tuple[float, float]], name: str, path: Path) -> None:
    """Draws one point per row: its difference from the baseline, with the standard error."""
    figure, axis = plt.subplots(figsize=(7, 0.32 * len(rows) + 1))
    means, errors = zip(*rows.values(), strict=True)
    places = range(len(rows))
    axis.errorbar(means, places, xerr=errors, fmt="o", capsize=3)
    axis.axvline(0, color="grey", linewidth=0.8)
    axis.set_yticks(places, list(rows))
    axis.invert_yaxis()
    axis.set_xlabel(f"{name}; bars: one standard error")
    save(figure, path)


def curves(rows: dict[str, list[dict[str, Any]]], along: str, path: Path) -> None:
    """Draws three plots with standard errors, one curve per row.

    The first has the change of the Frechet distance by guidance against the setting `along`, where "no beta" is drawn
    at 0. The others have score and class accuracy against the Frechet distance.
    """
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
    for row, points in rows.items():
        place = [(point["sampling"][along] or 0.0, 0.0) for point in points]
        less = [point["minus baseline"]["frechet"] for point in points]
        distance = [point["frechet"] for point in points]
        score, accuracy = ([point[name] for point in points] for name in ("score", "accuracy"))
        for axis, across, up in zip(axes, (place, distance, distance), (less, score, accuracy), strict=True):
            (x, x_error), (y, y_error) = zip(*across, strict=True), zip(*up, strict=True)
            axis.errorbar(x, y, y_error, x_error, marker="o", markersize=3, linewidth=1, label=row)
    axes[0].set(xlabel=along, ylabel="Frechet distance minus that without SSG")
    axes[1].set(xlabel="Frechet distance", ylabel="score")
    axes[2].set(xlabel="Frechet distance", ylabel="class accuracy")
    axes[0].legend(fontsize="small")
    figure.suptitle("bars: one standard error")
    save(figure, path)


def latents(found: dict[str, Any], path: Path) -> None:
    """Draws the change of the latents' log magnitude under SSG, a plot per scale (Fig. 4a of the paper)."""
    scales = range(1, len(found["sizes"]))
    figure, axes = plt.subplots(1, len(scales), figsize=(2.6 * len(scales), 2.8), squeeze=False, sharey=True)
    for axis, k in zip(axes[0], scales, strict=True):
        change, error = zip(*found["change"][k], strict=True)
        axis.errorbar(found["radii"], change, error, marker="o", markersize=3)
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.axvline(found["previous nyquist"][k], color="red", label="previous scale's Nyquist")
        axis.set(title="{0}x{0}".format(found["sizes"][k]), xlabel="cycles per latent grid")
    axes[0, 0].set_ylabel("change of the log magnitude")
    axes[0, -1].legend()
    save(figure, path)
