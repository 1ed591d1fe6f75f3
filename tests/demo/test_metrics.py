"""The classifier's accuracy, and spectra of images whose spectrum is known."""

from __future__ import annotations

import math

import pytest
import torch

from ssg_kernels.demo.metrics import Features, radial, spectrum


def test_accuracy() -> None:
    sure = Features(torch.zeros(4, 1), torch.eye(4).double())
    assert sure.accuracy(torch.tensor([0, 1, 2, 0])) == 0.75


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
