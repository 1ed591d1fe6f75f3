"""Training with the mask and sampling with the caches give the same logits."""

from __future__ import annotations

import torch

from ssg_kernels.demo.transformer import block_causal
from ssg_kernels.demo.weights import Models


def test_block_causal() -> None:
    assert block_causal((1, 2)).int().tolist() == [[1, 0, 0, 0, 0], *[[1, 1, 1, 1, 1]] * 4]


def test_scale_by_scale_is_the_masked_pass(tiny: Models) -> None:
    transformer, sizes = tiny.transformer, tiny.tokenizer.config.sizes
    labels = torch.tensor([0, 5, transformer.config.classes])
    tokens = torch.randint(tiny.tokenizer.config.vocabulary, (3, tiny.tokenizer.config.tokens))
    views = tiny.tokenizer.views(tokens)
    together = transformer(labels, views).split([n * n for n in sizes], 1)
    caches = transformer.caches(3)
    parts = views.split([n * n for n in sizes[1:]], 1)
    for k in range(len(sizes)):
        alone = transformer.scale(k, labels, parts[k - 1] if k else None, caches)
        torch.testing.assert_close(alone, together[k], rtol=1e-4, atol=1e-4)


def test_a_scale_does_not_see_the_next_ones(tiny: Models) -> None:
    transformer, sizes = tiny.transformer, tiny.tokenizer.config.sizes
    labels = torch.tensor([1])
    views = torch.randn(1, tiny.tokenizer.config.tokens - 1, transformer.config.latent)
    other = views.clone()
    last = sizes[-1] ** 2
    other[:, -last:] += 1
    before, after = transformer(labels, views), transformer(labels, other)
    assert torch.equal(before[:, :-last], after[:, :-last])
    assert (before[:, -last:] - after[:, -last:]).abs().max() > 0.1


def test_the_class_matters(tiny: Models) -> None:
    views = torch.randn(1, tiny.tokenizer.config.tokens - 1, tiny.transformer.config.latent)
    one, other = (tiny.transformer(torch.tensor([c]), views) for c in (0, 1))
    assert (one - other).abs().max() > 0.1
