"""Distances between sets of images, by the classifier's features, and the spectrum of latents."""

from __future__ import annotations

import torch
from torch import Tensor

from ssg_kernels.demo.metrics import Features
from ssg_kernels.evaluate import metrics

MANIFOLD = 2000  # images on each side that precision and recall compare

frechet = metrics.fid


def score(seen: Features) -> float:
    """The inception score by our classifier: exp of the mean divergence of p(class | image) from p(class)."""
    # The softmax of these logits gives back the probabilities.
    return metrics.inception_score(seen.probabilities.clamp(min=1e-12).log())


def precision_recall(made: Tensor, real: Tensor) -> tuple[float, float]:
    """Improved precision and recall of the first 2000 of the features (N, D) and (M, D)."""
    return metrics.precision_recall(made[:MANIFOLD], real[:MANIFOLD])


def by_radius(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Averages (..., n, n) maps, indexed like an FFT's output, over equal frequencies.

    Returns:
        The frequencies (F,) in cycles per side, and the means (..., F).
    """
    n = maps.shape[-1]
    along = torch.fft.fftfreq(n, 1 / n)
    squares = (along[:, None] ** 2 + along[None, :] ** 2).round()
    values = squares.unique()
    return values.sqrt(), torch.stack([maps[..., squares == value].mean(-1) for value in values], -1)
