"""The shipped weights reach the figures that are shipped with them."""

from __future__ import annotations

import json

import pytest

from ssg_kernels.demo import data, weights
from ssg_kernels.demo.metrics import features
from ssg_kernels.demo.weights import Models
from study import baseline


def test_they_reach_their_figures(shipped: Models) -> None:
    reached = json.loads((weights.SHIPPED / "baseline.json").read_text())
    images, labels = data.images(baseline.REAL, baseline.REAL_SEED)
    real = features(shipped.classifier, images)
    assert real.accuracy(labels) == pytest.approx(reached["classifier accuracy"], abs=1e-3)
    assert min(reached["factors explained"].values()) > 0.3
    made = baseline.generated(shipped, reached["seeds"] + 1, real)
    for name, value in made.items():
        mean, error = reached[name]
        # This is one other seed, so it deviates as one seed does, not as the mean of them.
        assert abs(value - mean) <= 4 * error * (reached["seeds"] + 1) ** 0.5, name
