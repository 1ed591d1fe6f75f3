"""Distances between sets of images, by the classifier's features, and the spectrum of latents."""

from __future__ import annotations

import torch
from torch import Tensor

from ssg_kernels.demo.metrics import Features

NEIGHBOURS = 3
MANIFOLD = 2000  # images on each side that precision and recall compare


def score(seen: Features) -> float:
    """The inception score by our classifier: exp of the mean divergence of p(class | image) from p(class)."""
    p = seen.probabilities.clamp(min=1e-12)
    return (p * (p.log() - p.mean(0).log())).sum(1).mean().exp().item()


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance of the Gaussians fitted to features (N, D) and (M, D), float64."""
    difference = a.mean(0) - b.mean(0)
    covariance, other = a.T.cov(), b.T.cov()
    # The product has the eigenvalues of the symmetric root @ other @ root, which are not negative.
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    return (difference.square().sum() + covariance.trace() + other.trace() - 2 * cross).item()


class Manifold:
    """Balls around the first 2000 of the features (N, D). Each ball reaches to the third nearest neighbour.

    `a.share(b)` is the share of b's features that lie within a's balls. This is the precision of b if a is the data,
    and the recall of a if b is the data (improved precision and recall).
    """

    def __init__(self, features: Tensor) -> None:
        self.centres = features[:MANIFOLD]
        nearest = torch.cdist(self.centres, self.centres).topk(NEIGHBOURS + 1, dim=1, largest=False).values
        self.radii = nearest[:, -1]

    def share(self, other: Manifold) -> float:
        """Share of the other's centres within these balls."""
        within = torch.cdist(other.centres, self.centres) <= self.radii
        return within.any(1).double().mean().item()


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
