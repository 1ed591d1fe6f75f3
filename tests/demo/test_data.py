"""The demo's images depend only on the seed and the index, and differ by class and factors."""

from __future__ import annotations

import torch

from ssg_kernels.demo import data
from ssg_kernels.demo.metrics import spectrum


def test_images_repeat() -> None:
    first, labels = data.images(36, seed=3)
    again, labels_again = data.images(36, seed=3)
    assert torch.equal(first, again)
    assert torch.equal(labels, labels_again)


def test_an_image_depends_on_seed_and_index_alone() -> None:
    few, many = data.images(24, seed=3)[0], data.images(1100, seed=3)[0]
    torch.testing.assert_close(few, many[:24], rtol=0, atol=1e-5)


def test_another_seed_gives_other_images() -> None:
    one, other = data.images(24, seed=3)[0], data.images(24, seed=4)[0]
    assert ((one - other).abs().mean((1, 2, 3)) > 0.02).all()


def test_images_are_in_range_and_classes_take_turns() -> None:
    images, labels = data.images(50, seed=0)
    assert images.shape == (50, 3, data.SIDE, data.SIDE)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert labels.tolist() == [i % len(data.CLASSES) for i in range(50)]


def test_factors_are_those_of_the_images() -> None:
    images, _ = data.images(1200, seed=3)
    factors = dict(zip(data.COLUMNS, data.factors(1200, seed=3).unbind(1), strict=True))
    # The cosine of the hue is its share of red. The background's level is the brightness of a corner.
    red = (images[:, 0] - images[:, 1:].mean(1))[:, 12:20, 12:20].mean((1, 2))
    assert _correlation(factors["cos hue"], red) > 0.8
    assert _correlation(factors["background"], images[:, :, :2, :2].mean((1, 2, 3))) > 0.8
    assert _correlation(factors["sin hue"], red).abs() < 0.1


def test_factors_have_mean_0_and_variance_1() -> None:
    factors = data.factors(20000, seed=1)
    assert factors.shape == (20000, len(data.COLUMNS))
    assert factors.mean(0).abs().max() < 0.05
    assert (factors.var(0) - 1).abs().max() < 0.05
    torch.testing.assert_close(factors[:5], data.factors(5, seed=1))


def _correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.corrcoef(torch.stack([a, b]))[0, 1]


def test_shapes_differ_where_nothing_else_does() -> None:
    uniform = torch.full((len(data.CLASSES), len(data._NAMES)), 0.5)
    drawn = data._draw(uniform, torch.arange(len(data.CLASSES)))
    distance = torch.cdist(drawn.flatten(1), drawn.flatten(1))
    distance.fill_diagonal_(torch.inf)
    assert distance.min() > 5


def test_textures_are_fine() -> None:
    images, labels = data.images(600, seed=0)
    energy = spectrum(images[labels == data.CLASSES.index("striped square")])
    # A period of 4.5 to 6 pixels is 5.3 to 7.1 cycles per image.
    assert energy[6] > 2 * energy[4]
    assert energy[6] > 2 * energy[8]
