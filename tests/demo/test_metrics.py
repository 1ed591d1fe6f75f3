"""Distances and spectra against what they are by definition."""

from __future__ import annotations

import math

import pytest
import scipy.linalg
import torch

from ssg_kernels.demo.metrics import Features, Manifold, frechet, mean_and_error, radial, spectrum


def test_frechet_against_the_matrix_root() -> None:
    a, b = torch.randn(200, 5).double(), 2 * torch.randn(300, 5).double() + 1
    b[:, 0] = 0.01 * b[:, 1]  # nearly redundant, as features are
    b[:, 0] += 1e-3 * torch.randn(300)
    covariances = a.T.cov(), b.T.cov()
    root = scipy.linalg.sqrtm((covariances[0] @ covariances[1]).numpy()).real
    expected = (a.mean(0) - b.mean(0)).square().sum() + sum(c.trace() for c in covariances) - 2 * root.trace()
    assert frechet(a, b) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_of_a_shift_is_its_square() -> None:
    a = torch.randn(200, 5).double()
    assert frechet(a, a + 2) == pytest.approx(20)


def test_score() -> None:
    sure = Features(torch.zeros(4, 1), torch.eye(4).double())
    assert sure.score() == pytest.approx(4)
    assert Features(torch.zeros(4, 1), torch.full((4, 4), 0.25).double()).score() == pytest.approx(1)
    assert sure.accuracy(torch.tensor([0, 1, 2, 0])) == 0.75


def test_precision_and_recall() -> None:
    real = torch.randn(500, 2).double()
    manifold, away = Manifold(real), Manifold(real + 100)
    assert manifold.share(manifold) == 1
    assert manifold.share(away) == away.share(manifold) == 0
    # Half of the data is missed; all that is made is good.
    made, two = Manifold(real[:250]), Manifold(torch.cat([real[:250], real[250:] + 100]))
    assert two.share(made) == 1
    assert made.share(two) == pytest.approx(0.5, abs=0.02)
    # Each ball ends at the third neighbour.
    line = Manifold(torch.tensor([[0.0], [1.0], [2.0], [4.0]]))
    assert line.radii.tolist() == [4, 3, 2, 4]


def test_radial_puts_a_wave_at_its_frequency() -> None:
    for cycles in (1, 5, 16):
        wave = torch.cos(2 * math.pi * cycles * torch.arange(32) / 32).double().expand(32, 32)
        energy = radial(torch.fft.fft2(wave).abs().square())
        assert energy.shape == (17,)
        assert energy.argmax() == cycles


def test_spectrum_of_a_constant_is_its_mean() -> None:
    energy = spectrum(torch.full((3, 3, 32, 32), 0.5))
    assert energy[0] == pytest.approx(0.25 * 32 * 32, rel=1e-6)
    assert energy[1:].abs().max() < 1e-9


def test_mean_and_error() -> None:
    mean, error = mean_and_error([1.0, 2.0, 3.0])
    assert mean == 2
    assert error == pytest.approx(1 / 3**0.5)
    assert math.isnan(mean_and_error([1.0])[1])
