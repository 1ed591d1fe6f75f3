"""`infinity` on the real Infinity: the tokens of the 2B and the 8B, and four aspect ratios in their own schedules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.generation_checks import check_after, check_before, check_everything, check_two_models
from support.recorders import recorded, run, same
from support.upstream_infinity import an_infinity, infinity_of

from ssg_kernels.integrations import infinity


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    with infinity_of("Infinity") as modules:
        yield modules


def test_infinity(upstream: Any) -> None:
    check_everything(an_infinity(upstream, 1.5))


@pytest.mark.parametrize("ratio", [1.0, 1.5, 0.5, 3.0])
def test_aspect_ratios(upstream: Any, ratio: float) -> None:
    sampler = an_infinity(upstream, ratio, "0.25M")
    check_after(sampler)
    check_before(sampler)


def test_infinity_8b(upstream: Any) -> None:
    """14 bits in patches of four."""
    sampler = an_infinity(upstream, 1.0, "0.06M", bits=14, patchify=1)
    assert check_after(sampler)[0].raw.shape[-1] == 112
    check_before(sampler)


def test_infinity_at_1m(upstream: Any) -> None:
    check_after(an_infinity(upstream, 3.0, "1M"))


@pytest.mark.parametrize("layers", [(-1,), (0, -1)])
def test_cfg_within_the_network(upstream: Any, layers: Any) -> None:
    sampler = an_infinity(upstream, layers=layers)
    check_after(sampler)
    check_before(sampler)


def test_cfg_that_stops(upstream: Any) -> None:
    sampler = an_infinity(upstream, cfgs=[4.0, 3.0, 3.0, 3.0, 1.0, 1.0, 1.0])
    check_after(sampler)
    check_before(sampler)


def test_one_model_at_every_ratio(upstream: Any) -> None:
    ratios = (1.0, 0.5, 1.5, 1.0)
    model = an_infinity(upstream).model
    alone = [run(an_infinity(upstream, ratio, model=model), beta=0.75) for ratio in ratios]
    with recorded(an_infinity(upstream, model=model)) as recorder, infinity.attach(model, 0.75):
        for ratio, expected in zip(ratios, alone, strict=True):
            assert same(recorder.run(sampler=an_infinity(upstream, ratio, model=model)), expected)


def test_two_infinities(upstream: Any) -> None:
    check_two_models(an_infinity(upstream), an_infinity(upstream, seed=1))
