"""`skipvar` on SkipVAR's own code: each of its decisions, over Infinity's schedule of thirteen scales."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.attach_checks import check_is_found
from support.checkouts import empty
from support.generation_checks import check_after, check_before, check_everything, check_is_itself_again
from support.guided_samplers import Sampler
from support.upstream_infinity import an_infinity, infinity_of
from torch import Tensor

from ssg_kernels.integrations import skipvar

SCALES = 13


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    # Its two classifiers, and their scalers, come as pickles.
    stub = empty("joblib")["joblib"]
    stub.load = lambda path: None
    with pytest.MonkeyPatch.context() as patch, infinity_of("SkipVAR") as modules:
        patch.setitem(sys.modules, "joblib", stub)
        with torch.compiler.set_stance("force_eager"):
            yield modules


def a_skipvar(upstream: Any, skip: int, uncond: int = 0, layers: Any = (0,)) -> Sampler:
    """Where it decides to skip scales, or to leave out the unconditional half of the last ones."""
    sampler = an_infinity(
        upstream, 1.0, "1M", layers=layers, attach=skipvar.attach, method="autoregressive_infer_cfg_SkipVAR"
    )  # fmt: skip
    model = sampler.model
    model.skip_scaler = model.uncond_scaler = SimpleNamespace(transform=lambda sample: sample)
    model.skip_model = SimpleNamespace(predict=lambda sample: [skip])
    model.uncond_model = SimpleNamespace(predict=lambda sample: [uncond])
    if uncond:
        # Only with this norm does it cut the attention cache.
        for block in model.unregistered_blocks:
            block.fused_norm_func = upstream.module.fused_ada_layer_norm
    generate, merge = sampler.generate, sampler.merge
    # It makes one image at a time.
    sampler.generate = lambda model, batch, seed: generate(model, 1, seed)

    def merged(scale: int, raw: Tensor, batch: int) -> Tensor:
        cond_only = bool(uncond) and scale >= SCALES - uncond
        assert len(raw) == (1 if cond_only else 2)
        return merge(scale, torch.cat([raw[:1], raw[-1:]]), 1)

    sampler.merge = merged
    return sampler.stopping(SCALES - skip)


def test_scales_that_are_left_out(upstream: Any) -> None:
    check_everything(a_skipvar(upstream, 3), [{}])


@pytest.mark.parametrize(("skip", "uncond"), [(0, 0), (1, 0), (2, 0), (0, 1), (0, 3)])
def test_every_decision(upstream: Any, skip: int, uncond: int) -> None:
    sampler = a_skipvar(upstream, skip, uncond)
    check_after(sampler)
    check_before(sampler)


def test_it_is_itself_again(upstream: Any) -> None:
    sampler = a_skipvar(upstream, 0, 2)
    check_is_itself_again(sampler)
    check_is_found(sampler)


def test_the_method_of_infinity(upstream: Any) -> None:
    check_everything(an_infinity(upstream, 1.5, attach=skipvar.attach), [{}])
