"""Multi-scale residual vector quantisation: encodes an image as one grid of tokens per scale, and decodes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class TokenizerConfig:
    sizes: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8)
    vocabulary: int = 512
    latent: int = 16
    width: int = 96
    blocks: int = 2
    patch: int = 4  # pixels per latent and side
    phis: int = 4

    @property
    def tokens(self) -> int:
        return sum(n * n for n in self.sizes)


class _Residual(nn.Sequential):
    def __init__(self, width: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)]
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Tokenizer(nn.Module):
    """Encoder, quantiser and decoder. All scales share one codebook; neighbouring scales share a phi."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        c, width = config, config.width
        body = [_Residual(width) for _ in range(c.blocks)]
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(c.patch),
            nn.Conv2d(3 * c.patch**2, width, 3, padding=1),
            *body,
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, c.latent, 1),
        )
        body = [_Residual(width) for _ in range(c.blocks)]
        half = width // 4
        self.decoder = nn.Sequential(
            nn.Conv2d(c.latent, width, 3, padding=1),
            *body,
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, 4 * half, 1),
            nn.PixelShuffle(2),
            nn.Conv2d(half, half, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(half, 3 * (c.patch // 2) ** 2, 3, padding=1),
            nn.PixelShuffle(c.patch // 2),
        )
        self.codebook = nn.Embedding(c.vocabulary, c.latent)
        self.phis = nn.ModuleList(nn.Conv2d(c.latent, c.latent, 3, padding=1) for _ in range(c.phis))

    @property
    def side(self) -> int:
        return self.config.sizes[-1]

    def encode(self, images: Tensor) -> Tensor:
        """Encodes images (B, 3, H, W) as tokens (B, sum of n*n), int64, coarse scales first."""
        return torch.cat(self.quantise(self.encoder(images))[0], 1)

    def decode(self, tokens: Tensor) -> Tensor:
        """Decodes tokens (B, sum of n*n) to images (B, 3, H, W) in [-1, 1]."""
        latent = self.blank(len(tokens))
        for k, part in enumerate(self.split(tokens)):
            latent = latent + self.detail(k, part)
        return self.image(latent)

    def image(self, latent: Tensor) -> Tensor:
        """Decodes a latent (B, C, side, side) to images (B, 3, H, W) in [-1, 1]."""
        return self.decoder(latent).clamp(-1, 1)

    def split(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Splits (B, sum of n*n) into one (B, n*n) per scale."""
        return tokens.split([n * n for n in self.config.sizes], 1)

    def blank(self, batch: int) -> Tensor:
        """The latent before the first scale, (B, C, side, side)."""
        return self.codebook.weight.new_zeros(batch, self.config.latent, self.side, self.side)

    def detail(self, k: int, tokens: Tensor) -> Tensor:
        """The contribution (B, C, side, side) of the tokens (B, n*n) of scale k to the latent."""
        n = self.config.sizes[k]
        codes = self.codebook(tokens).transpose(1, 2).unflatten(2, (n, n))
        if n < self.side:
            codes = F.interpolate(codes, size=(self.side, self.side), mode="bicubic")
        phi = self.phis[k * (len(self.phis) - 1) // max(len(self.config.sizes) - 1, 1)]
        return 0.5 * codes + 0.5 * phi(codes)

    def view(self, k: int, latent: Tensor) -> Tensor:
        """The latent averaged to the grid of scale k, (B, n*n, C)."""
        n = self.config.sizes[k]
        return F.adaptive_avg_pool2d(latent, n).flatten(2).transpose(1, 2)

    def views(self, tokens: Tensor) -> Tensor:
        """The transformer's input for scales 2 to K, (B, sum of n*n without the first, C)."""
        latent, views = self.blank(len(tokens)), []
        for k, part in enumerate(self.split(tokens)[:-1]):
            latent = latent + self.detail(k, part)
            views.append(self.view(k + 1, latent))
        return torch.cat(views, 1)

    def nearest(self, vectors: Tensor) -> Tensor:
        """The index (...) of the code nearest to each of the vectors (..., C), int64."""
        weight = self.codebook.weight
        return (weight.square().sum(1) - 2 * vectors @ weight.T).argmin(-1)

    def quantise(self, latent: Tensor) -> tuple[list[Tensor], Tensor, Tensor, list[Tensor]]:
        """Quantises the latent from coarse to fine. Each scale encodes the residual of the scales before it.

        Returns:
            The K grids of tokens (B, n*n), the quantised latent, the sum of codebook and commitment loss, and the K
            residuals (B, n*n, C) that the tokens encode.
        """
        built, loss = torch.zeros_like(latent), latent.new_zeros(())
        grids: list[Tensor] = []
        vectors: list[Tensor] = []
        fixed = latent.detach()
        for k in range(len(self.config.sizes)):
            wanted = self.view(k, fixed - built.detach())
            grids.append(self.nearest(wanted))
            vectors.append(wanted)
            built = built + self.detail(k, grids[-1])
            loss = loss + F.mse_loss(built, fixed) + 0.25 * F.mse_loss(built.detach(), latent)
        return grids, built, loss / len(self.config.sizes), vectors

    def training_loss(self, images: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Reconstruction plus quantisation loss, and the tokens and residuals of `quantise`."""
        latent = self.encoder(images)
        grids, built, loss, vectors = self.quantise(latent)
        made = self.decoder(latent + (built - latent).detach())
        return F.mse_loss(made, images) + F.l1_loss(made, images) + loss, grids, vectors

    @torch.no_grad()
    def revive(self, used: Tensor, vectors: Sequence[Tensor]) -> int:
        """Replaces each code whose count in `used` (V,) is 0 by a random one of `vectors`. Returns their number."""
        dead = (used == 0).nonzero().squeeze(1)
        # Take the same number of vectors from each scale, although coarse scales have fewer.
        pool = torch.cat([v.flatten(0, 1)[torch.randint(v.shape[0] * v.shape[1], (256,))] for v in vectors])
        chosen = pool[torch.randint(len(pool), (len(dead),))]
        self.codebook.weight[dead] = chosen
        return len(dead)
