"""`grn` on a stand-in of GRN."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support import infinity_kin
from support.attach_checks import CHECKS
from support.denoiser_checks import Denoiser, check_everything
from support.grn_checks import CFG, STEPS, TAU, TIME, a_denoiser
from torch import Tensor


def a_grn() -> Denoiser:
    def generate(model: Any, batch: int, seed: int) -> Tensor:
        args = SimpleNamespace(max_infer_steps=STEPS, add_scale_token=TIME)
        return model.autoregressive_infer(
            args=args, scale_schedule=[(2, 3, 4)], g_seed=seed, cfg_list=[CFG], tau_list=[TAU]
        )

    return a_denoiser(infinity_kin.Grn(), generate)


def test_grn() -> None:
    denoiser = a_grn()
    check_everything(denoiser, [denoiser.model, denoiser.model.blocks])


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_grn_in_threads_and_copies(check: Callable[..., None]) -> None:
    check(a_grn)
