"""A small classifier of the demo's images: its features and its accuracy are the study's yardstick.

It also tells what else differs between images (colour, place, size ...). Features that know the class alone would not
see that a sampler draws the same image again and again.
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
        # Red, green, blue, and where: a mean over the image knows no place.
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
        """Images (B, 3, H, W) in [-1, 1] to features (B, 64)."""
        across = torch.linspace(-1, 1, images.shape[-1], device=images.device).expand(
            len(images), 1, *images.shape[2:]
        )
        seen = torch.cat([images, across, across.transpose(2, 3)], 1)
        return F.silu(self.mix(self.body(seen).mean((2, 3))))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes), and the factors (B, F) of `data.factors`."""
        features = self.features(images)
        return self.head(features), self.factors(features)
