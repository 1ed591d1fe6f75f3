"""Generation: repeatable, unguided at beta 0, and the same by the kernel as by the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

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
