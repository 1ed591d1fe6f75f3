"""`tokenflow` on a stand-in of TokenFlow."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import infinity_kin
from support.generation_checks import CHECKS, check_guided
from support.guided_samplers import Sampler, ramp
from torch import Tensor

from bench.schedules import square
from ssg_kernels.integrations import tokenflow

FIRST_ID = 5


def a_tokenflow(predictions: int = 3, vocabulary_of_text: int = FIRST_ID) -> Sampler:
    model, cfg = infinity_kin.Tokenflow(vocabulary_of_text), 2.5
    sides, lengths = model.patch_nums, (4, 2, 3, 5, 4, 6)

    def generate(model: Any, batch: int, seed: int) -> Tensor:
        prompts = [torch.arange(length) % 5 for length in lengths[: 2 * batch]]
        return model.autoregressive_infer_cfg(
            batch,
            prompts,
            g_seed=seed,
            cfg=cfg,
            topk_list=[6, 4, 2][:predictions],
            topp_list=[0.9] * predictions,
        )

    def source(scale: int, raw: Tensor) -> Tensor:
        """Of each row, where the scale lies in it."""
        before, tokens = sum(n * n for n in sides[:scale]), sides[scale] ** 2
        starts = [length - 1 + before for length in lengths]
        return torch.stack([row[a : a + tokens] for row, a in zip(raw, starts, strict=False)])

    merge = ramp(cfg, model.num_stages_minus_1)

    def masked(scale: int, raw: Tensor, batch: int) -> Tensor:
        logits = merge(scale, raw, batch)
        logits[..., :vocabulary_of_text] = -math.inf
        return logits

    return Sampler(
        tokenflow.attach,
        model,
        generate,
        square(sides),
        vars(infinity_kin),
        masked,
        makers=("forward",),
        source=source,
        repeats=[1] + [predictions] * (len(sides) - 1),
    )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_tokenflow(check: Callable[..., None]) -> None:
    check(a_tokenflow)


def test_one_prediction_of_each_scale_and_no_text() -> None:
    check_guided(functools.partial(a_tokenflow, 1, 0))
