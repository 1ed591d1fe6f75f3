"""`aar` on the real AAR; its tokenizer, which comes after the sampler, is stood in for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.attach_checks import check_threads
from support.checkouts import checkout, empty, private_to_threads, randomize
from support.generation_checks import check_everything, check_two_models
from support.guided_samplers import Sampler, ramp
from torch import Tensor, nn
from torch.nn import functional

from ssg_kernels.integrations import aar

VOCABULARY, CHANNELS, TEXT, CFG = 48, 8, 512, 3.0
# The scales of its tokenizer grow so; the last one here is shorter.
SIDES = (1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 33)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    stubs = empty(
        "torchaudio", "torchaudio.transforms", "torchlibrosa", "librosa", "librosa.filters", "einops"
    )
    with checkout("AAR", stubs):
        import model.aar as module

        yield module


class Quantizer:
    def __init__(self, sides: tuple[int, ...]) -> None:
        self.vq = SimpleNamespace(dim=CHANNELS, layers=[SimpleNamespace(codebook_size=VOCABULARY)])
        self.sides = sides
        self.codebook = torch.randn(VOCABULARY, CHANNELS, generator=torch.Generator().manual_seed(0))

    def embedding(self, tokens: Tensor, scale: int) -> Tensor:
        return self.codebook[tokens].transpose(1, 2)

    def get_next_autoregressive_input(self, scale: int, f_hat: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        f_hat = f_hat + functional.interpolate(h, size=self.sides[-1], mode="linear")
        following = self.sides[min(scale + 1, len(self.sides) - 1)]
        return f_hat, functional.interpolate(f_hat, size=following, mode="area")


def an_aar(upstream: Any, sides: tuple[int, ...] = SIDES, seed: int = 0) -> Sampler:
    torch.manual_seed(seed)
    vae = SimpleNamespace(quantizer=Quantizer(sides), fhat_to_audio=lambda f_hat: f_hat)
    model = upstream.AAR(vae, TEXT, depth=2, embed_dim=32, num_heads=2, patch_nums=sides).eval()
    randomize(model, seed)
    nn.init.normal_(model.uncond_embedding)

    def generate(model: Any, batch: int, seed: int) -> Tensor:
        text = torch.randn(batch, TEXT, generator=torch.Generator().manual_seed(1))
        return model.autoregressive_infer_cfg(batch, text, g_seed=seed, cfg=CFG, top_k=20, top_p=0.96)

    return Sampler(
        aar.attach,
        model,
        generate,
        [(1, n) for n in sides],
        vars(upstream),
        ramp(CFG, len(sides) - 1),
    )


def test_aar(upstream: Any) -> None:
    check_everything(an_aar(upstream))


def test_two_aars_and_threads(upstream: Any) -> None:
    make: Callable[..., Sampler] = functools.partial(an_aar, upstream, SIDES[:5])
    check_two_models(make(), make(seed=1))

    def private() -> Sampler:
        sampler = make()
        private_to_threads(sampler.model)
        return sampler

    check_threads(private)
