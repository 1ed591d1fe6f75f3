"""Networks of the demo for tests: tiny untrained ones, and the shipped ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssg_kernels.demo import weights
from ssg_kernels.demo.tokenizer import TokenizerConfig
from ssg_kernels.demo.weights import Models

SIZES = (1, 2, 3, 4, 8)


@pytest.fixture(scope="session")
def tiny() -> Models:
    return new_tiny()


def new_tiny() -> Models:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        models = weights.new(TokenizerConfig(SIZES, vocabulary=128, latent=8, width=16, blocks=1), 32, 2, 2)
        for model in vars(models).values():
            model.eval().requires_grad_(False)
        # Fresh networks give nearly uniform logits. These prefer some tokens, and which ones depends on the class.
        for block in models.transformer.blocks:
            torch.nn.init.normal_(block.modulation.weight, std=0.1)
        models.transformer.classes.weight.mul_(20)
        models.transformer.head.weight.mul_(8)
    return models


@pytest.fixture(scope="session")
def shipped() -> Models:
    return weights.load()


def tensors(models: Models) -> dict[str, Tensor]:
    """All weights and buffers by name."""
    return {f"{part}.{k}": v for part, m in vars(models).items() for k, v in m.state_dict().items()}
