"""Measures the weights without guidance. The figures are shipped as baseline.json, and a test compares them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssg_kernels.demo import data
from ssg_kernels.demo.generate import Sampling, generate
from ssg_kernels.demo.metrics import Features, features
from ssg_kernels.demo.weights import Models
from ssg_kernels.evaluate.metrics import fid
from study.summary import mean_and_error

SEEDS = 5
IMAGES = 1000  # per seed
REAL = 5000
REAL_SEED = 10**10 + 1


def measure(models: Models) -> dict[str, Any]:
    """Measures each network on data it was not trained on, and generation as mean and standard error over the seeds."""
    images, labels = data.images(REAL, REAL_SEED)
    real = features(models.classifier, images)
    made = [generated(models, seed, real) for seed in range(1, SEEDS + 1)]
    return {
        "images": IMAGES,
        "seeds": SEEDS,
        "classifier accuracy": real.accuracy(labels),
        "factors explained": _explained(models, images),
        **_tokenizer(models, real),
        **{name: mean_and_error([one[name] for one in made]) for name in made[0]},
    }


def generated(models: Models, seed: int, real: Features) -> dict[str, float]:
    """Generates with the default sampling and measures the distance from the data and the class accuracy."""
    labels = torch.arange(IMAGES) % len(data.CLASSES)
    made = features(models.classifier, generate(models, labels, seed, Sampling())[0])
    return {
        "frechet": fid(made.features, real.features),
        "accuracy": made.accuracy(labels),
    }


@torch.inference_mode()
def _explained(models: Models, images: Tensor) -> dict[str, float]:
    """Share of each factor's variance that the classifier predicts on the images of `REAL_SEED`."""
    device = models.classifier.head.weight.device
    predicted = torch.cat([models.classifier(part.to(device))[1].cpu() for part in images.split(256)])
    left = (predicted - data.factors(REAL, REAL_SEED)).square().mean(0)
    return dict(zip(data.COLUMNS, (1 - left).tolist(), strict=True))


@torch.inference_mode()
def _tokenizer(models: Models, real: Features) -> dict[str, float]:
    images, labels = data.images(IMAGES, REAL_SEED + 1)
    tokenizer, device = models.tokenizer, models.transformer.head.weight.device
    coded, decoded, entropy = [], [], 0.0
    for part, classes in zip(images.split(100), labels.split(100), strict=True):
        tokens = tokenizer.encode(part.to(device))
        logits = models.transformer(classes.to(device), tokenizer.views(tokens))
        entropy += F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum").item()
        coded.append(tokens.cpu())
        decoded.append(tokenizer.decode(tokens).cpu())
    tokens, again = torch.cat(coded), torch.cat(decoded)
    share = tokens.flatten().bincount(minlength=tokenizer.config.vocabulary).double() / tokens.numel()
    seen = features(models.classifier, again)
    return {
        "reconstruction dB": -10 * ((again - images) / 2).square().mean().log10().item(),
        "reconstruction frechet": fid(seen.features, real.features),
        "reconstruction accuracy": seen.accuracy(labels),
        "codes used": int((share > 0).sum()),
        "code perplexity": torch.special.entr(share).sum().exp().item(),
        "nats a token": entropy / tokens.numel(),
    }
