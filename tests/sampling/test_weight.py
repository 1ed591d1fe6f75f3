"""The weight of `sample`: how close it is to exp, and that it never falls where the logit rises."""

from __future__ import annotations

import re
from pathlib import Path

import mpmath
import pytest
import torch
from torch import Tensor

from ssg_kernels import reference

ROOT = Path(reference.__file__).parent
ONE = 2**39  # the weight of the largest logit


def weights_below(largest: float, distances: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits that lie below the largest, which comes first, and their weights."""
    logits = torch.cat([torch.tensor([largest]), largest - distances.float()])
    return logits, reference.sample_weights(logits[None, None], scale=scale)[0, 0]


@pytest.mark.parametrize("largest", [0.0, 0.2, -0.3, 9.7, 34.9, 35.1, -36.5, 5000.0, 3e7])
def test_close_to_exp(largest: float) -> None:
    distances = torch.cat([torch.linspace(0, 28, 3001), torch.logspace(-9, 0, 300)])
    logits, weights = weights_below(largest, distances)
    with mpmath.workprec(120):
        for logit, weight in zip(logits.tolist(), weights.tolist(), strict=True):
            exact = ONE * mpmath.exp(mpmath.mpf(logit) - mpmath.mpf(logits[0].item()))
            assert abs(weight - exact) <= exact * 2.0**-23.5 + 1


def test_never_less_for_a_larger_logit() -> None:
    # Neighbouring floats at the borders of octaves, where the exponent and the significand change at once.
    borders = torch.arange(0, 28, torch.tensor(2.0).log().item())
    near = torch.arange(-40, 41, dtype=torch.float64) * 2.0**-26
    for largest in (0.0, 11.3, 40.0):
        logits, weights = weights_below(largest, (borders[:, None] + near).flatten().abs())
        order = logits.argsort()
        assert (weights[order].diff() >= 0).all()
    fraction = torch.arange(2**20) * 64 + 63
    power = torch.full_like(fraction, reference._POWER[-1])
    for coefficient in reversed(reference._POWER[:-1]):
        power = (fraction * power >> 26) + coefficient
    exact = 2.0 ** (30 + fraction.double() / 2**26)
    assert ((power - exact) / exact).abs().max() < 2.0**-27.7
    assert (power.diff() >= 0).all()


@pytest.mark.parametrize("vocabulary", [2, 64, 4096, 16384])
@pytest.mark.parametrize("deviation", [0.01, 0.1, 1.0, 3.0, 6.0])
def test_as_close_to_an_exact_softmax_as_float32(vocabulary: int, deviation: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = deviation * torch.randn(1, 2**20 // max(vocabulary, 1024), vocabulary, generator=generator)

    def distance(chances: Tensor) -> Tensor:
        return (chances - logits.double().softmax(-1)).abs().sum(-1) / 2

    weights = reference.sample_weights(logits).double()
    ours, theirs = distance(weights / weights.sum(-1, keepdim=True)), distance(logits.softmax(-1).double())
    assert ours.mean() <= theirs.mean()
    assert ours.max() <= theirs.max()


@pytest.mark.parametrize("gap", [16.0, 20.0, 23.0])
def test_a_tail_far_below_one_token(gap: float) -> None:
    """One token holds nearly everything; thousands share the rest."""
    logits = 0.01 * torch.randn(1, 1, 4096, generator=torch.Generator().manual_seed(1))
    logits[..., 7] = gap
    exact = logits.double().softmax(-1)
    weights = reference.sample_weights(logits).double()
    ours = (weights / weights.sum() - exact).abs().sum() / 2
    assert ours <= (logits.softmax(-1) - exact).abs().sum() / 2


def test_the_same_numbers_everywhere() -> None:
    """Every backend has the polynomial of the reference."""
    for path in (ROOT / "_triton/sampling.py", ROOT.parent / "csrc/weight.h"):
        if path.exists():
            found = {int(number) for number in re.findall(r"(?<![\w.])(\d{6,10})u?\b", path.read_text())}
            assert {*reference._POWER, reference._LOG2_E} <= found
