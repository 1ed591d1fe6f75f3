"""The Frechet distance of images that lack a part of the data."""

from __future__ import annotations

import pytest
from torch import Tensor

from ssg_kernels.demo import data
from ssg_kernels.demo.metrics import features
from ssg_kernels.demo.weights import Models
from ssg_kernels.evaluate.metrics import fid


@pytest.fixture(scope="module")
def real(shipped: Models) -> Tensor:
    """Features of the data."""
    return features(shipped.classifier, data.images(5000, 6)[0]).features


@pytest.fixture(scope="module")
def drawn(shipped: Models) -> Tensor:
    """Features of other data."""
    return features(shipped.classifier, data.images(4000, 5)[0]).features


@pytest.mark.parametrize("column", data.COLUMNS)
def test_the_distance_sees_what_is_missing(real: Tensor, drawn: Tensor, column: str) -> None:
    """Images with only half of a factor's values are far from the data."""
    factor = data.factors(4000, 5)[:, data.COLUMNS.index(column)]
    assert fid(drawn[factor > 0], real) > 5 * fid(drawn[:2000], real)
