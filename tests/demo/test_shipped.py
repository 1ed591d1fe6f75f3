"""The shipped weights: small, as good as their figures say, and drawn from by the kernels as by the reference."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from support.bounds import RELATIVE
from torch import Tensor

from ssg_kernels import reference
from ssg_kernels.demo import baseline, data, metrics, weights
from ssg_kernels.demo.generate import Sampling, generate
from ssg_kernels.demo.weights import Models

IMAGES = 24
GUIDED = Sampling(beta=0.5)
SAMPLINGS = [
    GUIDED,
    replace(GUIDED, prior="spatial", interpolation="nearest", schedule="static", temperature=1.25, top_k=9),
    replace(GUIDED, prior="dse_zero_pad", rescale=True, cfg_order="before", temperature=0.7),
    replace(GUIDED, interpolation="bicubic", cfg=2.5, top_k=0, top_p=0.0),
]


@pytest.fixture(scope="module")
def shipped() -> Models:
    return weights.load()


@pytest.fixture(scope="module")
def real(shipped: Models) -> Tensor:
    """Features of the data."""
    return metrics.features(shipped.classifier, data.images(5000, 6)[0]).features


@pytest.fixture(scope="module")
def drawn(shipped: Models) -> Tensor:
    """Features of other data."""
    return metrics.features(shipped.classifier, data.images(4000, 5)[0]).features


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in weights.SHIPPED.iterdir()) <= 8 * 10**6


def test_they_reach_their_figures(shipped: Models) -> None:
    reached = json.loads((weights.SHIPPED / "baseline.json").read_text())
    images, labels = data.images(baseline.REAL, baseline.REAL_SEED)
    real = metrics.features(shipped.classifier, images)
    assert real.accuracy(labels) == pytest.approx(reached["classifier accuracy"], abs=1e-3)
    assert min(reached["factors explained"].values()) > 0.3
    made = baseline.generated(shipped, reached["seeds"] + 1, real)
    for name, value in made.items():
        mean, error = reached[name]
        # A seed of its own: its deviation is that of one seed, not of the mean.
        assert abs(value - mean) <= 4 * error * (reached["seeds"] + 1) ** 0.5, name


@pytest.mark.parametrize("column", data.COLUMNS)
def test_the_distance_sees_what_is_missing(real: Tensor, drawn: Tensor, column: str) -> None:
    """A sampler that draws half of a factor's values is far from the data."""
    factor = data.factors(4000, 5)[:, data.COLUMNS.index(column)]
    assert metrics.frechet(drawn[factor > 0], real) > 5 * metrics.frechet(drawn[:2000], real)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["dse", "nearest", "zero-padded", "bicubic"])
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
    tokens = generate(shipped, torch.arange(IMAGES) % len(data.CLASSES), 7, sampling)[1]
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
        # Only where the uniform number hits the edge of two tokens, as closely as the logits are known.
        chance = reference.sample_weights(scaled, sampling.top_k, sampling.top_p)[differ].double()
        chance = chance / chance.sum(-1, keepdim=True)
        upper = chance.cumsum(-1).gather(-1, made[differ][:, None]).squeeze(-1)
        lower = upper - chance.gather(-1, made[differ][:, None]).squeeze(-1)
        slack = 4 * bound / sampling.temperature
        assert ((lower - slack <= u[differ]) & (u[differ] <= upper + slack)).all(), (
            f"scale {k + 1}: {differ.sum()} tokens"
        )


def _guided(raw: list[Tensor], sizes: tuple[int, ...], k: int, sampling: Sampling) -> Tensor:
    """What scale k is drawn from: merged and guided by the reference, in float64."""
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
