"""Residual quantisation: the tokens determine the quantised latent, and every part is trained."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ssg_kernels.demo import data
from ssg_kernels.demo.tokenizer import Tokenizer, TokenizerConfig
from ssg_kernels.demo.weights import Models


def test_decoding_the_tokens_is_decoding_the_quantised_latent(tiny: Models) -> None:
    images, _ = data.images(4, seed=0)
    tokenizer = tiny.tokenizer
    grids, built, _, _ = tokenizer.quantise(tokenizer.encoder(images))
    tokens = tokenizer.encode(images)
    assert torch.equal(tokens, torch.cat(grids, 1))
    assert tokens.shape == (4, tokenizer.config.tokens)
    torch.testing.assert_close(tokenizer.decode(tokens), tokenizer.image(built))


def test_tokens_are_the_nearest_codes_to_what_was_left(tiny: Models) -> None:
    tokenizer = tiny.tokenizer
    latent = torch.randn(3, tokenizer.config.latent, tokenizer.side, tokenizer.side)
    left = latent.clone()
    grids, built, _, _ = tokenizer.quantise(latent)
    for k, (n, grid) in enumerate(zip(tokenizer.config.sizes, grids, strict=True)):
        wanted = F.interpolate(left, (n, n), mode="area").flatten(2).transpose(1, 2)
        distance = torch.cdist(wanted, tokenizer.codebook.weight.expand(3, -1, -1))
        chosen = distance.gather(2, grid.unsqueeze(2)).squeeze(2)
        torch.testing.assert_close(chosen, distance.min(2).values)
        left -= tokenizer.detail(k, grid)
    torch.testing.assert_close(built, latent - left)


def test_views_are_the_latents_before_each_scale(tiny: Models) -> None:
    tokenizer = tiny.tokenizer
    tokens = torch.randint(tokenizer.config.vocabulary, (2, tokenizer.config.tokens))
    views = tokenizer.views(tokens).split([n * n for n in tokenizer.config.sizes[1:]], 1)
    latent = tokenizer.blank(2)
    for k, part in enumerate(tokenizer.split(tokens)[:-1]):
        latent = latent + tokenizer.detail(k, part)
        torch.testing.assert_close(views[k], tokenizer.view(k + 1, latent))


def test_a_code_that_fits_reconstructs_exactly() -> None:
    tokenizer = Tokenizer(TokenizerConfig(sizes=(1, 2), vocabulary=8, latent=4, width=16, patch=16))
    tokenizer.requires_grad_(False)
    for phi in tokenizer.phis:  # the identity, so that a code adds itself
        phi.weight.zero_()
        phi.bias.zero_()
        phi.weight[range(4), range(4), 1, 1] = 1
    tokenizer.codebook.weight[0] = 0
    latent = tokenizer.codebook.weight[torch.tensor([[1, 2], [3, 4]])].permute(2, 0, 1).unsqueeze(0)
    latent -= latent.mean((2, 3), keepdim=True)
    tokenizer.codebook.weight[1:5] = latent[0].flatten(1).T
    grids, built, _, _ = tokenizer.quantise(latent)
    assert grids[1].flatten().tolist() == [1, 2, 3, 4]
    torch.testing.assert_close(built, latent + tokenizer.detail(0, grids[0]))


def test_only_unused_codes_are_revived() -> None:
    tokenizer = Tokenizer(TokenizerConfig(vocabulary=8, latent=4, width=16))
    before = tokenizer.codebook.weight.detach().clone()
    used = torch.tensor([1, 0, 3, 0, 1, 1, 1, 9])
    vectors = [torch.full((2, 1, 4), 7.0), torch.full((2, 4, 4), 7.0)]
    assert tokenizer.revive(used, vectors) == 2
    changed = (tokenizer.codebook.weight != before).any(1)
    assert changed.tolist() == (used == 0).tolist()
    assert (tokenizer.codebook.weight[changed] == 7).all()


@pytest.mark.parametrize("part", ["encoder", "decoder", "codebook", "phis"])
def test_the_loss_reaches_every_part(part: str) -> None:
    tokenizer = Tokenizer(
        TokenizerConfig(sizes=(1, 2, 4, 8), vocabulary=16, latent=4, width=16, blocks=1, phis=2)
    )
    tokenizer.training_loss(data.images(4, seed=0)[0])[0].backward()
    for parameter in getattr(tokenizer, part).parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
