"""Distances against their definitions, and on images that lack a part of the data."""

from __future__ import annotations

import pytest
import scipy.linalg
import torch
from torch import Tensor

from ssg_kernels.demo import data
from ssg_kernels.demo.metrics import Features, features
from ssg_kernels.demo.weights import Models
from study.metrics import frechet, precision_recall, score


@pytest.fixture(scope="module")
def real(shipped: Models) -> Tensor:
    """Features of the data."""
    return features(shipped.classifier, data.images(5000, 6)[0]).features


@pytest.fixture(scope="module")
def drawn(shipped: Models) -> Tensor:
    """Features of other data."""
    return features(shipped.classifier, data.images(4000, 5)[0]).features


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
    assert score(sure) == pytest.approx(4)
    assert score(Features(torch.zeros(4, 1), torch.full((4, 4), 0.25).double())) == pytest.approx(1)


def test_precision_and_recall() -> None:
    real = torch.randn(500, 2).double()
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real + 100, real) == (0, 0)
    # Half of the data is missing from `made`, but all of `made` looks like data.
    two = torch.cat([real[:250], real[250:] + 100])
    assert precision_recall(real[:250], two) == (1, pytest.approx(0.5, abs=0.02))
    # Each ball ends at the third neighbour: at distances of 4, 3, 2, 4 and 7.
    line = torch.tensor([[0.0], [1.0], [2.0], [4.0], [8.0]])
    made = torch.tensor([[-3.9], [-4.1], [14.9], [15.1], [0.0], [16.0]])
    assert precision_recall(made, line)[0] == 0.5


@pytest.mark.parametrize("column", data.COLUMNS)
def test_the_distance_sees_what_is_missing(real: Tensor, drawn: Tensor, column: str) -> None:
    """Images with only half of a factor's values are far from the data."""
    factor = data.factors(4000, 5)[:, data.COLUMNS.index(column)]
    assert frechet(drawn[factor > 0], real) > 5 * frechet(drawn[:2000], real)
