"""The demo's and the study's pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor


def grids(panels: dict[str, Tensor], rows: Sequence[str], path: Path) -> None:
    """Panels side by side, each (rows, columns, 3, H, W) images in [-1, 1] under its name."""
    count, columns = next(iter(panels.values())).shape[:2]
    size = (len(panels) * columns * 0.75 + 1.5, count * 0.75 + 0.6)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True)
    for axis, (title, images) in zip(axes[0], panels.items(), strict=True):
        height, width = images.shape[-2:]
        framed = np.ones((count, height + 2, columns, width + 2, 3), dtype=np.float32)
        framed[:, 1:-1, :, 1:-1] = (images.permute(0, 3, 1, 4, 2).cpu().numpy() + 1) / 2
        axis.imshow(framed.reshape(count * (height + 2), columns * (width + 2), 3), interpolation="nearest")
        axis.set_title(title)
        axis.set_xticks([])
        axis.set_yticks([(row + 0.5) * (height + 2) for row in range(count)], rows)
        axis.tick_params(length=0)
        for side in axis.spines.values():
            side.set_visible(False)
    _save(figure, path)


def spectra(
    energies: dict[str, Tensor], real: Tensor, path: Path, errors: dict[str, Tensor] | None = None
) -> None:
    """Spectral energy by cycles per image, and its ratio to the data's (Fig. 7 of the paper), with standard errors."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    cycles = range(1, len(real))
    left.plot(cycles, real[1:], color="black", label="data")
    right.axhline(1, color="black", label="data")
    for name, energy in energies.items():
        left.plot(cycles, energy[1:], label=name)
        error = (errors[name] / real)[1:] if errors else None
        right.errorbar(cycles, (energy / real)[1:], error, capsize=2, label=name)
    left.set(yscale="log", ylabel="spectral energy", xlabel="cycles per image")
    right.set(ylabel="energy over the data's", xlabel="cycles per image")
    left.legend()
    _save(figure, path)


def differences(rows: dict[str, tuple[float, float]], name: str, path: Path) -> None:
    """A difference from the baseline in each row, with its standard error."""
    figure, axis = plt.subplots(figsize=(7, 0.32 * len(rows) + 1))
    means, errors = zip(*rows.values(), strict=True)
    places = range(len(rows))
    axis.errorbar(means, places, xerr=errors, fmt="o", capsize=3)
    axis.axvline(0, color="grey", linewidth=0.8)
    axis.set_yticks(places, list(rows))
    axis.invert_yaxis()
    axis.set_xlabel(f"{name}; bars: one standard error")
    _save(figure, path)


def curves(rows: dict[str, list[dict[str, Any]]], along: str, path: Path) -> None:
    """Along a setting of the sampling: what guidance takes off the Frechet distance, and the distance against score
    and accuracy, with standard errors. No beta at all stands at 0.
    """
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
    for row, points in rows.items():
        place = [(point["sampling"][along] or 0.0, 0.0) for point in points]
        less, distance = (
            [point["minus baseline"]["frechet"] for point in points],
            [p["frechet"] for p in points],
        )
        score, accuracy = ([point[name] for point in points] for name in ("score", "accuracy"))
        for axis, across, up in zip(axes, (place, distance, distance), (less, score, accuracy), strict=True):
            (x, x_error), (y, y_error) = zip(*across, strict=True), zip(*up, strict=True)
            axis.errorbar(x, y, y_error, x_error, marker="o", markersize=3, linewidth=1, label=row)
    axes[0].set(xlabel=along, ylabel="Frechet distance minus that without SSG")
    axes[1].set(xlabel="Frechet distance", ylabel="score")
    axes[2].set(xlabel="Frechet distance", ylabel="class accuracy")
    axes[0].legend(fontsize="small")
    figure.suptitle("bars: one standard error")
    _save(figure, path)


def latents(found: dict[str, Any], path: Path) -> None:
    """Change of the latents' log magnitude under SSG after each scale (Fig. 4a of the paper), with standard errors."""
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
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
