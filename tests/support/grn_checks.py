"""What GRN and its stand-in have in common: each step is one row, with cfg and the temperature merged after it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from ssg_kernels.integrations import grn
from support.denoiser_checks import Denoiser, Output

CFG, TAU, STEPS, TIME = 2.5, 1.1, 6, 1


@contextmanager
def recorded(model: Any) -> Iterator[list[Output]]:
    outputs: list[Output] = []
    make, softmax = model.get_logits_during_infer, torch.Tensor.softmax
    mine = threading.get_ident()

    def spy_on_logits(*args: Any, **kwargs: Any) -> Tensor:
        raw = make(*args, **kwargs)
        outputs.append(Output(len(outputs), "both", raw.clone()))
        return raw

    def spy_on_softmax(logits: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # The last one of a step is what is drawn from.
        if threading.get_ident() == mine:
            outputs[-1].delivered = logits.clone().view(1, -1, 2)
        return softmax(logits, *args, **kwargs)

    with pytest.MonkeyPatch.context() as swap:
        swap.setattr(model, "get_logits_during_infer", spy_on_logits)
        swap.setattr(torch.Tensor, "softmax", spy_on_softmax)
        yield outputs


def outcome(logits: Tensor) -> Tensor:
    """(1, 2 * (L + TIME), 2d) to the logits that are drawn from, (1, L * d, 2)."""
    cond, uncond = (half[:, :-TIME] for half in logits.unflatten(-1, (-1, 2)).chunk(2, 1))
    return ((uncond + CFG * (cond - uncond)) / TAU).flatten(1, 2)


def a_denoiser(model: Any, generate: Callable[[Any, int, int], Tensor]) -> Denoiser:
    return Denoiser(
        grn.attach,
        model,
        generate,
        lambda: recorded(model),
        STEPS,
        model,
        outcome,
        batches=(1,),
        method="get_logits_during_infer",
    )
