"""What the demo reports about images: the classifier's view of them, and their spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssg_kernels.demo.classifier import Classifier


@dataclass(frozen=True)
class Features:
    """The classifier's output for a set of images."""

    features: Tensor  # (N, 64) float64
    probabilities: Tensor  # (N, classes) float64

    def accuracy(self, labels: Tensor) -> float:
        """Share of the images that the classifier assigns to the requested class."""
        return (self.probabilities.argmax(1) == labels).double().mean().item()


@torch.inference_mode()
def features(classifier: Classifier, images: Tensor, batch: int = 256) -> Features:
    """Runs the classifier on images (N, 3, H, W) in [-1, 1], `batch` at a time."""
    device = classifier.head.weight.device
    kept = [classifier.features(part.to(device)) for part in images.split(batch)]
    inner = torch.cat(kept)
    return Features(inner.cpu().double(), classifier.head(inner).softmax(1).cpu().double())


def radial(maps: Tensor) -> Tensor:
    """Averages (..., n, n) maps, indexed like an FFT's output, over rings of equal frequency: (..., n // 2 + 1).

    Entry r averages the frequencies that round to r cycles per side, up to the Nyquist frequency of the axes.
    """
    n = maps.shape[-1]
    along = torch.fft.fftfreq(n, 1 / n)
    ring = (along[:, None] ** 2 + along[None, :] ** 2).sqrt().round().long()
    rings = [maps[..., ring == r].mean(-1) for r in range(n // 2 + 1)]
    return torch.stack(rings, -1)


def energies(images: Tensor) -> Tensor:
    """Spectral energy of the luminance of images (N, 3, 32, 32), by cycles per side: (N, 17) float64."""
    weight = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    grey = torch.einsum("nchw,c->nhw", images.cpu().double(), weight)
    return radial(torch.fft.fft2(grey, norm="ortho").abs().square())


def spectrum(images: Tensor) -> Tensor:
    """The mean of `energies` over the images: (17,) float64."""
    return torch.cat([energies(part) for part in images.split(1024)]).mean(0)
