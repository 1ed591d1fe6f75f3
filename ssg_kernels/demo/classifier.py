"""A small classifier of the demo's images. The study measures generated images with its features and its accuracy.

It also predicts the other factors of an image, such as colour, position and size. Features of the class alone would
not show that a sampler draws the same image again and again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 64


class Classifier(nn.Module):
    def __init__(self, classes: int, factors: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        # Red, green, blue, x and y. Without x and y, the mean over the image would lose the position.
        for before, after, stride in ((5, 24, 1), (24, 48, 2), (48, FEATURES, 2), (FEATURES, FEATURES, 1)):
            layers += [
                nn.Conv2d(before, after, 3, stride, padding=1),
                nn.GroupNorm(8, after),
                nn.SiLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.mix = nn.Linear(FEATURES, FEATURES)
        self.head = nn.Linear(FEATURES, classes)
        self.factors = nn.Linear(FEATURES, factors)

    def features(self, images: Tensor) -> Tensor:
        """Features (B, 64) of images (B, 3, H, W) in [-1, 1]."""
        across = torch.linspace(-1, 1, images.shape[-1], device=images.device).expand(
            len(images), 1, *images.shape[2:]
        )
        seen = torch.cat([images, across, across.transpose(2, 3)], 1)
        return F.silu(self.mix(self.body(seen).mean((2, 3))))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes), and predictions (B, F) of `data.factors`."""
        features = self.features(images)
        return self.head(features), self.factors(features)
