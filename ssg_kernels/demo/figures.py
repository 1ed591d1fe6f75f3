"""The pictures of the demo: images side by side, and their spectra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

_FRAME = 2  # pixels
_RED = (0.85, 0.0, 0.0)


def grids(panels: dict[str, Tensor], rows: Sequence[str], path: Path, framed: dict[str, Tensor]) -> None:
    """Draws panels side by side. Each has (rows, columns, 3, H, W) images in [-1, 1], with its name above.

    `framed` has a bool (rows, columns) for each panel: the images that get a red frame.
    """
    count, columns = next(iter(panels.values())).shape[:2]
    size = (len(panels) * columns * 0.75 + 1.5, count * 0.75 + 0.6)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True)
    for axis, (title, images) in zip(axes[0], panels.items(), strict=True):
        height, width = images.shape[-2:]
        tall, wide = height + 2 * _FRAME, width + 2 * _FRAME
        drawn = np.ones((count, tall, columns, wide, 3), dtype=np.float32)
        drawn.swapaxes(1, 2)[framed[title].cpu().numpy()] = _RED
        inner = slice(_FRAME, -_FRAME)
        drawn[:, inner, :, inner] = (images.permute(0, 3, 1, 4, 2).cpu().numpy() + 1) / 2
        axis.imshow(drawn.reshape(count * tall, columns * wide, 3), interpolation="nearest")
        axis.set_title(title)
        axis.set_xticks([])
        axis.set_yticks([(row + 0.5) * tall for row in range(count)], rows)
        axis.tick_params(length=0)
        for side in axis.spines.values():
            side.set_visible(False)
    save(figure, path)


def spectra(
    energies: dict[str, Tensor], real: Tensor, path: Path, errors: dict[str, Tensor] | None = None
) -> None:
    """Draws spectral energy by cycles per image, and its ratio to that of the data (Fig. 7 of the paper).

    Args:
        energies: one spectrum (R,) per curve, by the curve's name.
        real: the data's spectrum (R,).
        path: the picture.
        errors: standard errors of `energies`, drawn as bars.
    """
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
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Writes the figure and frees it."""
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
