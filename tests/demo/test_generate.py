"""Generation repeats, is unguided at beta 0, and draws the same tokens by the kernel as by the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.bounds import RELATIVE
from torch import Tensor

from ssg_kernels import reference
from ssg_kernels.demo import data
from ssg_kernels.demo.generate import Clock, Sampling, generate
from ssg_kernels.demo.weights import Models

LABELS = torch.arange(12)
GUIDED = Sampling(beta=0.5)
PRIORS = [("dse", "bilinear"), ("dse_zero_pad", "bilinear"), ("spatial", "nearest")]
CASES = [
    replace(GUIDED, prior=prior, interpolation=interpolation, rescale=rescale, cfg_order=order)
    for prior, interpolation in PRIORS
    for rescale in (False, True)
    for order in ("after", "before")
]
SHIPPED_SAMPLINGS = [
    GUIDED,
    replace(GUIDED, prior="spatial", interpolation="nearest", schedule="static", temperature=1.25, top_k=9),
    replace(GUIDED, prior="dse_zero_pad", rescale=True, cfg_order="before", temperature=0.7),
    replace(GUIDED, interpolation="bicubic", cfg=2.5, top_k=0, top_p=0.0),
]


def test_repeats(tiny: Models) -> None:
    first, second = (generate(tiny, LABELS, 3, GUIDED) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], generate(tiny, LABELS, 4, GUIDED)[1])


def test_the_first_images_do_not_depend_on_how_many_follow(tiny: Models) -> None:
    few, many = generate(tiny, LABELS[:3], 3, GUIDED)[1], generate(tiny, LABELS, 3, GUIDED)[1]
    assert torch.equal(few, many[:3])


@pytest.mark.parametrize("order", ["after", "before"])
@pytest.mark.parametrize("cfg", [0.0, 1.5])
def test_beta_zero_is_no_guidance(tiny: Models, cfg: float, order: str) -> None:
    plain = Sampling(cfg=cfg, cfg_order=order)
    without, with_zero = (generate(tiny, LABELS, 3, replace(plain, beta=beta)) for beta in (None, 0.0))
    assert torch.equal(without[0], with_zero[0])
    assert torch.equal(without[1], with_zero[1])


def test_guidance_changes_what_is_drawn(tiny: Models) -> None:
    plain, guided = (generate(tiny, LABELS, 3, replace(GUIDED, beta=b))[1] for b in (None, 0.5))
    first = tiny.tokenizer.config.sizes[0] ** 2
    assert torch.equal(plain[:, :first], guided[:, :first])
    assert (plain != guided).double().mean() > 0.05


@pytest.mark.parametrize("sampling", CASES, ids=lambda s: f"{s.prior}-{s.rescale}-{s.cfg_order}")
def test_the_kernel_draws_what_the_reference_draws(
    tiny: Models, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_kernel = generate(tiny, LABELS, 5, sampling)
    monkeypatch.setenv("SSG_KERNELS_BACKEND", "reference")
    by_reference = generate(tiny, LABELS, 5, sampling)
    assert torch.equal(by_kernel[1], by_reference[1])
    torch.testing.assert_close(by_kernel[0], by_reference[0])


def test_clock_and_watch(tiny: Models) -> None:
    clock, latents = Clock(), []
    images, _ = generate(
        tiny, LABELS, 0, GUIDED, batch=6, clock=clock, watch=lambda k, latent: latents.append((k, latent))
    )
    scales = len(tiny.tokenizer.config.sizes)
    assert len(clock.sampling) == scales
    assert 0 < sum(clock.sampling) < clock.total
    assert [k for k, _ in latents] == 2 * list(range(scales))
    torch.testing.assert_close(tiny.tokenizer.image(latents[scales - 1][1]), images[:6])


@pytest.mark.parametrize("sampling", SHIPPED_SAMPLINGS, ids=["dse", "nearest", "zero-padded", "bicubic"])
def test_every_token_is_that_of_the_reference(
    shipped: Models, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw: list[Tensor] = []
    original = type(shipped.transformer).scale

    def scale(*args: object) -> Tensor:
        raw.append(original(*args))  # type: ignore[arg-type]
        return raw[-1].clone()

    monkeypatch.setattr(type(shipped.transformer), "scale", scale)
    sizes = shipped.tokenizer.config.sizes
    tokens = generate(shipped, torch.arange(24) % len(data.CLASSES), 7, sampling)[1]
    uniform = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(7))
    drawn = zip(shipped.tokenizer.split(tokens), shipped.tokenizer.split(uniform), strict=True)
    for k, (made, u) in enumerate(drawn):
        guided = _guided(raw, sizes, k, sampling)
        bound = RELATIVE[torch.float32] * guided.abs().max().item()
        scaled = guided / sampling.temperature
        expected = reference.sample(scaled, u, sampling.top_k, sampling.top_p)
        differ = made != expected
        if not differ.any():
            continue
        # Tokens may differ only where the uniform number is at the boundary of two tokens, within the bound.
        chance = reference.sample_weights(scaled, sampling.top_k, sampling.top_p)[differ].double()
        chance = chance / chance.sum(-1, keepdim=True)
        upper = chance.cumsum(-1).gather(-1, made[differ][:, None]).squeeze(-1)
        lower = upper - chance.gather(-1, made[differ][:, None]).squeeze(-1)
        slack = 4 * bound / sampling.temperature
        assert ((lower - slack <= u[differ]) & (u[differ] <= upper + slack)).all(), (
            f"scale {k + 1}: {differ.sum()} tokens"
        )


def _guided(raw: list[Tensor], sizes: tuple[int, ...], k: int, sampling: Sampling) -> Tensor:
    """The logits of scale k, merged and guided by the reference in float64."""
    t = sampling.cfg * k / (len(sizes) - 1)
    if k == 0:
        conditional, unconditional = raw[0].double().chunk(2)
        return (1 + t) * conditional - t * unconditional
    before = t if sampling.cfg_order == "before" else sampling.cfg * (k - 1) / (len(sizes) - 1)
    decay = 1 - k / len(sizes) if sampling.schedule == "linear" else 1.0
    assert sampling.beta is not None
    return reference.guided_logits_cfg(
        raw[k].double(),
        raw[k - 1].double(),
        (sizes[k],) * 2,
        (sizes[k - 1],) * 2,
        sampling.beta * decay,
        t,
        before,
        sampling.prior,
        sampling.interpolation,
        sampling.rescale,
    )
