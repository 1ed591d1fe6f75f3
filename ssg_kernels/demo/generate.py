"""Samples images of given classes, scale by scale, with classifier-free and scaled spatial guidance."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssg_kernels.demo.weights import Models
from ssg_kernels.generation import merge_cfg
from ssg_kernels.ops import sample
from ssg_kernels.sampler import GuidedSampler


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The filters are those of VAR. Its top_k, 900 of 4096, is scaled to this vocabulary.

    Args:
        cfg: strength t of classifier-free guidance at the last scale. Scale k of K has t * (k-1)/(K-1), as in VAR.
        temperature: divides the guided logits.
        top_k, top_p: filters; 0 switches one off.
        beta: strength of scaled spatial guidance, or None for no guidance.
        schedule, prior, interpolation, rescale: as in `SSG`.
        cfg_order: "after" guides the merged logits; "before" guides both halves and then merges them.
    """

    cfg: float = 1.0
    temperature: float = 1.0
    top_k: int = 112
    top_p: float = 0.96
    beta: float | None = None
    schedule: str = "linear"
    prior: str = "dse"
    interpolation: str = "bilinear"
    rescale: bool = False
    cfg_order: str = "after"

    def sampler(self, sizes: Sequence[int]) -> GuidedSampler | None:
        """The sampler that guides and draws, or None if there is no guidance."""
        if self.beta is None:
            return None
        return GuidedSampler(
            sizes,
            self.beta,
            self.schedule,
            self.prior,
            self.interpolation,
            self.rescale,
            cfg=self.cfg or None,
            cfg_schedule="ramp",
            cfg_order=self.cfg_order,
            top_k=self.top_k,
            top_p=self.top_p,
            temperature=self.temperature,
        )


@dataclass
class Clock:
    """Seconds that a generation took, summed over its batches."""

    sampling: list[float] = field(default_factory=list)  # per scale: from logits to tokens
    total: float = 0.0


def generate(
    models: Models,
    labels: Tensor,
    seed: int,
    sampling: Sampling,
    batch: int = 64,
    clock: Clock | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Generates one image per entry of `labels`.

    The random numbers of image i depend only on `seed` and i, so two samplings can be compared image by image.

    Args:
        models: the networks, as from `weights.load`.
        labels: the requested classes (N,), int64.
        seed: seed of the random numbers that draw the tokens.
        sampling: how tokens are drawn.
        batch, clock, watch: as for `draw`.

    Returns:
        Images (N, 3, H, W), float32 in [-1, 1], and their tokens (N, sum of n*n), int64.
    """
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand((len(labels), positions(models)), generator=generator)
    return draw(models, labels, uniform, sampling, batch, clock, watch)


def positions(models: Models) -> int:
    """Number of tokens of an image, over all scales. Each takes one random number."""
    return sum(n * n for n in models.tokenizer.config.sizes)


@torch.inference_mode()
def draw(
    models: Models,
    labels: Tensor,
    uniform: Tensor,
    sampling: Sampling,
    batch: int = 64,
    clock: Clock | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Generates one image per entry of `labels`, from given random numbers.

    Args:
        models: the networks, as from `weights.load`.
        labels: the requested classes (N,), int64.
        uniform: the random numbers (N, `positions`) in [0, 1) that draw the tokens.
        sampling: how tokens are drawn.
        batch: number of images generated at once.
        clock: if given, measures the time.
        watch: if given, is called after each scale of each batch with the scale's index and the latent (b, C, h, w).

    Returns:
        Images (N, 3, H, W), float32 in [-1, 1], and their tokens (N, sum of n*n), int64.
    """
    device = models.transformer.head.weight.device
    images, tokens = [], []
    clock = clock or Clock()
    start = time.perf_counter()
    for u, c in zip(uniform.to(device).split(batch), labels.to(device).split(batch), strict=True):
        one = _Batch(models, c, sampling, clock)
        parts = []
        for k, part in enumerate(models.tokenizer.split(u)):
            parts.append(one.scale(k, part))
            if watch is not None:
                watch(k, one.latent)
        images.append(models.tokenizer.image(one.latent))
        tokens.append(torch.cat(parts, 1))
    made = torch.cat(images), torch.cat(tokens)
    _wait(device)
    clock.total += time.perf_counter() - start
    return made


class _Batch:
    """The state of one generated batch: the caches and the latent built so far."""

    def __init__(self, models: Models, labels: Tensor, sampling: Sampling, clock: Clock) -> None:
        self.models, self.sampling, self.clock = models, sampling, clock
        self.latent = models.tokenizer.blank(len(labels))
        self.both = sampling.cfg != 0
        if self.both:
            labels = torch.cat([labels, torch.full_like(labels, models.transformer.config.classes)])
        self.labels = labels
        self.caches = models.transformer.caches(len(labels))
        self.sampler = sampling.sampler(models.tokenizer.config.sizes)

    def scale(self, k: int, uniform: Tensor) -> Tensor:
        """Draws the tokens (b, n*n) of scale k and adds them to the latent."""
        tokenizer = self.models.tokenizer
        view = tokenizer.view(k, self.latent) if k else None
        if view is not None and self.both:
            view = torch.cat([view, view])
        logits = self.models.transformer.scale(k, self.labels, view, self.caches)
        _wait(logits.device)
        start = time.perf_counter()
        tokens = self._draw(k, logits, uniform)
        _wait(logits.device)
        if len(self.clock.sampling) <= k:
            self.clock.sampling.append(0.0)
        self.clock.sampling[k] += time.perf_counter() - start
        self.latent = self.latent + tokenizer.detail(k, tokens)
        return tokens

    def _draw(self, k: int, logits: Tensor, uniform: Tensor) -> Tensor:
        sampling = self.sampling
        if self.sampler is not None:
            return self.sampler(logits, uniform=uniform)
        if self.both:
            t = sampling.cfg * k / max(len(self.models.tokenizer.config.sizes) - 1, 1)
            logits = merge_cfg(logits, t)
        return sample(logits / sampling.temperature, uniform, sampling.top_k, sampling.top_p)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
