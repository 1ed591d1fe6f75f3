"""What the study measures images with: a classifier's features, and spectra."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssg_kernels.demo.classifier import Classifier
from ssg_kernels.demo.data import SIDE

NEIGHBOURS = 3
MANIFOLD = 2000  # images on each side that precision and recall look at


@dataclass(frozen=True)
class Features:
    """What the classifier says of a set of images."""

    features: Tensor  # (N, 64) float64
    probabilities: Tensor  # (N, classes) float64

    def accuracy(self, labels: Tensor) -> float:
        """Share of the images that the classifier gives the asked class."""
        return (self.probabilities.argmax(1) == labels).double().mean().item()

    def score(self) -> float:
        """exp of the mean divergence of p(class | image) from p(class): the inception score, with our classifier."""
        p = self.probabilities.clamp(min=1e-12)
        return (p * (p.log() - p.mean(0).log())).sum(1).mean().exp().item()


@torch.inference_mode()
def features(classifier: Classifier, images: Tensor, batch: int = 256) -> Features:
    """Images (N, 3, H, W) in [-1, 1]."""
    device = classifier.head.weight.device
    kept = [classifier.features(part.to(device)) for part in images.split(batch)]
    inner = torch.cat(kept)
    return Features(inner.cpu().double(), classifier.head(inner).softmax(1).cpu().double())


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance of the Gaussians fitted to features (N, D) and (M, D), float64."""
    difference = a.mean(0) - b.mean(0)
    covariance, other = a.T.cov(), b.T.cov()
    # The eigenvalues of the product are those of the symmetric root @ other @ root, and not negative.
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    return (difference.square().sum() + covariance.trace() + other.trace() - 2 * cross).item()


class Manifold:
    """Of the first 2000 of features (N, D): the balls about them, each as wide as to the third nearest neighbour.

    `a.share(b)` is the share of b's features within a's balls: the precision of b where a is the data, and b's recall
    where b is (improved precision and recall).
    """

    def __init__(self, features: Tensor) -> None:
        self.centres = features[:MANIFOLD]
        nearest = torch.cdist(self.centres, self.centres).topk(NEIGHBOURS + 1, dim=1, largest=False).values
        self.radii = nearest[:, -1]

    def share(self, other: Manifold) -> float:
        """Share of the other's centres within these balls."""
        within = torch.cdist(other.centres, self.centres) <= self.radii
        return within.any(1).double().mean().item()


def radial(maps: Tensor) -> Tensor:
    """Mean of (..., n, n) maps, indexed like an FFT's output, over rings of equal frequency: (..., n // 2 + 1).

    Entry r holds the frequencies nearest to r cycles per side, up to the Nyquist frequency of the axes.
    """
    n = maps.shape[-1]
    along = torch.fft.fftfreq(n, 1 / n)
    ring = (along[:, None] ** 2 + along[None, :] ** 2).sqrt().round().long()
    rings = [maps[..., ring == r].mean(-1) for r in range(n // 2 + 1)]
    return torch.stack(rings, -1)


def by_radius(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of (..., n, n) maps, indexed like an FFT's output, over equal frequencies: those, and (..., frequencies)."""
    n = maps.shape[-1]
    along = torch.fft.fftfreq(n, 1 / n)
    squares = (along[:, None] ** 2 + along[None, :] ** 2).round()
    values = squares.unique()
    return values.sqrt(), torch.stack([maps[..., squares == value].mean(-1) for value in values], -1)


def spectrum(images: Tensor) -> Tensor:
    """Mean spectral energy of images (N, 3, 32, 32), of their luminance, by cycles per side: (17,) float64."""
    weight = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    total = torch.zeros(SIDE // 2 + 1, dtype=torch.float64)
    for part in images.cpu().split(1024):
        grey = torch.einsum("nchw,c->nhw", part.double(), weight)
        total += radial(torch.fft.fft2(grey, norm="ortho").abs().square()).sum(0)
    return total / len(images)


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean of independent repeats, and its standard error (NaN of a single one)."""
    array = np.asarray(values, dtype=np.float64)
    error = array.std(ddof=1) / len(array) ** 0.5 if len(array) > 1 else float("nan")
    return float(array.mean()), float(error)
