"""What must hold of a guided VQ-Diffusion, of the stand-in, of Microsoft's and of diffusers' alike.

Every step has one grid, k counts the steps of the call, and each branch is guided by its own previous step, on
the network's output. A step that is tried again keeps its k and its previous logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from ssg_kernels import reference
from support.attach_checks import BETA, check_is_found
from support.generation_checks import RELATIVE
from support.guided_samplers import multipliers


@dataclass
class Output:
    """One output of the network: of a step, counted from 0, and of a branch."""

    step: int
    branch: str
    raw: Tensor
    """(B, L, V)"""
    delivered: Tensor | None = None
    """What the sampler makes of it, mostly log-probabilities."""


@dataclass
class Denoiser:
    attach: Callable[..., Any]
    model: Any
    generate: Callable[[Any, int, int], Tensor]
    """(model, batch, seed) to all that the generation decided."""
    record: Callable[[], AbstractContextManager[list[Output]]]
    """Recorders below the integration."""
    steps: int
    network: Any
    """Its `forward` puts out the logits."""
    outcome: Callable[[Tensor], Tensor] = lambda logits: logits.log_softmax(-1).clamp(-70, 0)
    """What comes of guided logits, (B, L, V) in float64, and is recorded as delivered."""
    batches: Sequence[int] = (2, 3)
    method: str = "forward"
    """The method of `network` that puts out the logits, where it is another."""

    @property
    def maker(self) -> tuple[Any, str]:
        return self.network, self.method


@contextmanager
def recorded_microsoft(diffusion: Any, indices: list[int]) -> Iterator[list[Output]]:
    """Of Microsoft's, or a stand-in: the network's output, and what `predict_start` makes of it."""
    outputs: list[Output] = []
    forward, predict_start = diffusion.transformer.forward, diffusion.predict_start
    conditions: list[Any] = []

    def spy_forward(tokens: Tensor, condition: Any, t: Tensor) -> Tensor:
        raw = forward(tokens, condition, t)
        if not outputs:
            conditions.clear()
        conditions.append(condition)
        is_conditional = condition is None or torch.equal(condition, conditions[0])
        outputs.append(
            Output(
                indices.index(int(t[0])),
                "cond" if is_conditional else "uncond",
                raw.transpose(1, 2).clone(),
            )
        )
        return raw

    def spy_predict_start(*args: Any) -> Tensor:
        predicted = predict_start(*args)
        outputs[-1].delivered = predicted[:, : outputs[-1].raw.shape[2]].transpose(1, 2).clone()
        return predicted

    with pytest.MonkeyPatch.context() as swap:
        swap.setattr(diffusion.transformer, "forward", spy_forward)
        swap.setattr(diffusion, "predict_start", spy_predict_start)
        yield outputs


def run(
    denoiser: Denoiser, seed: int = 0, batch: int | None = None, **settings: Any
) -> tuple[Tensor, list[Output]]:
    with (
        denoiser.record() as outputs,
        denoiser.attach(denoiser.model, **settings) if settings else nullcontext(),
    ):
        return run_recorded(denoiser, outputs, seed, batch)


def run_recorded(
    denoiser: Denoiser, outputs: list[Output], seed: int = 0, batch: int | None = None
) -> tuple[Tensor, list[Output]]:
    """A generation where recorders are installed already, below the integration."""
    outputs.clear()
    torch.manual_seed(seed)
    result = denoiser.generate(denoiser.model, denoiser.batches[0] if batch is None else batch, seed)
    return result, list(outputs)


def literal(
    denoiser: Denoiser, outputs: list[Output], beta: Any, schedule: Any, **options: Any
) -> list[Tensor]:
    factors = multipliers(schedule, denoiser.steps)
    guided = []
    for output in outputs:
        logits = output.raw.double()
        # Of a step that was tried again, the last try.
        before = [o for o in outputs if (o.step, o.branch) == (output.step - 1, output.branch)]
        if output.step:
            # On one grid, whatever its sides, the prior is the previous logits.
            prev, size = before[-1].raw.double(), (1, logits.shape[1])
            logits = reference.guided_logits(logits, prev, size, size, beta * factors[output.step], **options)
        guided.append(logits)
    return guided


def check_guided(
    denoiser: Denoiser, schedule: Any = "linear", beta: Any = BETA, **options: Any
) -> list[Output]:
    _, outputs = run(denoiser, beta=beta, schedule=schedule, **options)
    options.pop("cfg_order", None)
    assert {output.step for output in outputs} == set(range(denoiser.steps))
    moved = 0.0
    for output, guided in zip(outputs, literal(denoiser, outputs, beta, schedule, **options), strict=True):
        expected = denoiser.outcome(guided)
        assert output.delivered is not None
        error = (output.delivered.double() - expected).abs().max()
        assert error <= RELATIVE * guided.abs().max(), f"off by {error:.3g}"
        moved = max(moved, (guided - output.raw.double()).abs().max().item())
    assert moved > 0.1, "guidance made no difference"
    return outputs


def same(a: tuple[Tensor, list[Output]], b: tuple[Tensor, list[Output]]) -> bool:
    return torch.equal(a[0], b[0]) and all(
        torch.equal(x.raw, y.raw) and torch.equal(x.delivered, y.delivered)
        for x, y in zip(a[1], b[1], strict=True)
    )


def check_everything(denoiser: Denoiser, modules: Sequence[torch.nn.Module]) -> None:
    """`modules` are those that an integration might leave something in."""
    check_guided(denoiser)
    check_guided(denoiser, "static", prior="spatial", interpolation="bicubic", beta=-0.5)
    check_guided(denoiser, "static", prior="dse_zero_pad", rescale=True, beta=torch.tensor(1.5))
    check_guided(denoiser, [0.25 * (k + 1) for k in range(denoiser.steps)], beta=1.0, cfg_order="before")

    before = [dict(vars(module)) for module in modules], type(denoiser.model)
    plain, guided = run(denoiser), run(denoiser, beta=BETA)
    one, other = denoiser.batches[0], denoiser.batches[-1]
    three = run(denoiser, batch=other, beta=BETA)
    assert same(plain, run(denoiser, beta=0.0))
    assert not same(plain, guided)
    with denoiser.record() as outputs, denoiser.attach(denoiser.model, BETA):
        for batch, expected in ((one, guided), (other, three), (one, guided)):
            assert same(run_recorded(denoiser, outputs, batch=batch), expected)
            with failing(modules[-1], denoiser.steps // 2), pytest.raises(ZeroDivisionError):
                denoiser.generate(denoiser.model, batch, 0)
        with pytest.raises(ValueError, match="is attached already"):
            denoiser.attach(denoiser.model, BETA)
    check_is_found(denoiser)
    with denoiser.attach(denoiser.model, BETA):
        denoiser.generate(denoiser.model, one, 0)
    with pytest.raises(ZeroDivisionError), denoiser.attach(denoiser.model, BETA):
        raise ZeroDivisionError
    assert same(plain, run(denoiser))
    after = [dict(vars(module)) for module in modules], type(denoiser.model)
    assert [list(x) for x in before[0]] == [list(x) for x in after[0]]
    assert before[1] is after[1]


def failing(network: torch.nn.Module, calls: int) -> Any:
    """A context in which the network fails at this call, and works after it."""

    def fail(*_: Any) -> None:
        nonlocal calls
        calls -= 1
        if calls < 0:
            handle.remove()
            raise ZeroDivisionError

    handle = network.register_forward_pre_hook(fail)
    return handle
