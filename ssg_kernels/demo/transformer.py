"""The next-scale transformer: predicts all tokens of a scale at once, from the class and the earlier scales."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class TransformerConfig:
    sizes: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8)
    vocabulary: int = 512
    latent: int = 16
    classes: int = 12
    width: int = 96
    depth: int = 4
    heads: int = 3


def block_causal(sizes: tuple[int, ...]) -> Tensor:
    """Mask (L, L). A token (row) attends to the tokens (columns) of its own scale and of earlier ones: True."""
    scale = torch.cat([torch.full((n * n,), k) for k, n in enumerate(sizes)])
    return scale[:, None] >= scale[None, :]


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        mask: Tensor | None,
        cache: tuple[Tensor, Tensor] | None,
        start: int,
    ) -> Tensor:
        """`cache` holds keys and values (B, heads, all tokens, width/heads), filled up to `start`."""
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(condition).unsqueeze(1).chunk(6, 2)
        normed = torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)
        qkv = self.qkv(normed).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if cache is not None:
            end = start + x.shape[1]
            for kept, new in zip(cache, (k, v), strict=True):
                kept[:, :, start:end] = new
            k, v = (kept[:, :, :end] for kept in cache)
        seen = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
        x = torch.addcmul(x, self.out(seen), 1 + gate)
        normed = torch.addcmul(shift2, F.layer_norm(x, x.shape[-1:]), 1 + scale2)
        return torch.addcmul(x, self.down(F.gelu(self.up(normed), approximate="tanh")), 1 + gate2)


class Transformer(nn.Module):
    """The label `config.classes` stands for no class: classifier-free guidance uses it."""

    mask: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        tokens, width = sum(n * n for n in config.sizes), config.width
        self.classes = nn.Embedding(config.classes + 1, width)
        self.start = nn.Embedding(config.classes + 1, config.sizes[0] ** 2 * width)
        self.word = nn.Linear(config.latent, width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.ModuleList(_Block(width, config.heads) for _ in range(config.depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, config.vocabulary)
        for embedding in (self.classes, self.start):
            nn.init.normal_(embedding.weight, std=0.02)
        self.register_buffer("mask", block_causal(config.sizes), persistent=False)

    def forward(self, labels: Tensor, views: Tensor) -> Tensor:
        """Predicts all scales at once, as in training.

        Args:
            labels: classes (B,), int64.
            views: input of scales 2 to K, from `Tokenizer.views`, (B, tokens without the first scale's, latent).

        Returns:
            Logits (B, tokens, V).
        """
        x = torch.cat([self._first(labels), self.word(views)], 1) + self.position
        condition = self._condition(labels)
        for block in self.blocks:
            x = block(x, condition, self.mask, None, 0)
        return self._logits(x, condition)

    def caches(self, batch: int) -> list[tuple[Tensor, Tensor]]:
        """Empty keys and values for one generation, a pair per block."""
        shape = (batch, self.config.heads, len(self.mask), self.config.width // self.config.heads)
        weight = self.head.weight
        return [(weight.new_empty(shape), weight.new_empty(shape)) for _ in self.blocks]

    def scale(
        self, k: int, labels: Tensor, view: Tensor | None, caches: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Predicts scale k during generation, and extends `caches`.

        Args:
            k: index of the scale, from 0.
            labels: classes (B,), int64.
            view: input of this scale, from `Tokenizer.view`, (B, n*n, latent). None for the first scale.
            caches: keys and values of the earlier scales, from `caches`.

        Returns:
            Logits (B, n*n, V).
        """
        start = sum(n * n for n in self.config.sizes[:k])
        x = self._first(labels) if view is None else self.word(view)
        x = x + self.position[start : start + x.shape[1]]
        condition = self._condition(labels)
        for block, cache in zip(self.blocks, caches, strict=True):
            x = block(x, condition, None, cache, start)
        return self._logits(x, condition)

    def _first(self, labels: Tensor) -> Tensor:
        return self.start(labels).unflatten(1, (-1, self.config.width))

    def _condition(self, labels: Tensor) -> Tensor:
        return F.silu(self.classes(labels) * self.config.width**0.5)

    def _logits(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.modulation(condition).unsqueeze(1).chunk(2, 2)
        return self.head(torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale))
