"""The weights on disk: small, and the same again when they are loaded."""

from __future__ import annotations

from pathlib import Path

import torch
from support.demo_models import tensors

from ssg_kernels.demo import weights
from ssg_kernels.demo.weights import Models


def test_the_shipped_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in weights.SHIPPED.iterdir()) <= 8 * 10**6


def test_weights_come_back_in_half_precision(tiny: Models, tmp_path: Path) -> None:
    for name, model in vars(tiny).items():
        weights.save(model, tmp_path / f"{name}.safetensors")
    loaded = weights.load(tmp_path)
    assert loaded.tokenizer.config == tiny.tokenizer.config
    assert loaded.transformer.config == tiny.transformer.config
    for name, tensor in tensors(tiny).items():
        expected = tensor if tensor.dtype == torch.bool else tensor.half().float()
        assert torch.equal(tensors(loaded)[name], expected), name
    assert not any(p.requires_grad for m in vars(loaded).values() for p in m.parameters())
