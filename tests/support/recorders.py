"""Recorders below the integration: the raw logits that a model made, and what its sampler was handed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from support.guided_samplers import Sampler


@dataclass
class Scale:
    """What one call of the model's and one of the sampler's saw."""

    maker: str
    raw: Tensor
    handed: Tensor | None = None
    masked: Tensor | None = None
    smoothed: Tensor | None = None


class Recorder:
    """What the model made and what its sampler was handed, scale by scale."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.scales: list[Scale] = []

    def run(
        self, seed: int = 0, batch: int | None = None, sampler: Sampler | None = None
    ) -> tuple[Tensor, list[Scale]]:
        """A generation of this model, by another sampler of it where one is given."""
        self.scales.clear()
        sampler = sampler or self.sampler
        result = sampler.generate(sampler.model, sampler.batch_of(batch), seed)
        return result, list(self.scales)

    def spy_on_maker(self, name: str) -> Callable[..., Any]:
        make = getattr(self.sampler.owner, name)

        def spy(*args: Any, **kwargs: Any) -> Tensor:
            made = make(*args, **kwargs)
            logits = made[0] if isinstance(made, tuple) else made
            self.scales.append(Scale(name, logits.clone()))
            _latest.recorder = self
            return made

        return spy

    def spy_on_function(self, name: str, see: Callable[..., Any]) -> Callable[..., Any]:
        """Models of one module share its functions: a call is of the model that made logits last in this thread."""
        function = self.sampler.names[name]

        def spy(*args: Any, **kwargs: Any) -> Any:
            if getattr(_latest, "recorder", None) is not self:
                return function(*args, **kwargs)
            return see(self.scales[-1], function, *args, **kwargs)

        return spy


_latest = threading.local()


def see_sampler(last: Scale, sample: Callable[..., Any], logits: Tensor, *args: Any, **kwargs: Any) -> Any:
    handed = logits.clone()
    # The parts of a vocabulary are parts of one scale. A draw of other positions replaces the one before.
    is_part = last.handed is not None and last.handed.shape[:2] == handed.shape[:2]
    last.handed = torch.cat([last.handed, handed], dim=-1) if is_part else handed
    drawn = sample(logits, *args, **kwargs)
    last.masked = logits.clone()
    return drawn


def see_smooth(last: Scale, gumbel: Callable[..., Any], logits: Tensor, *args: Any, **kwargs: Any) -> Any:
    last.smoothed = logits.clone()
    return gumbel(logits, *args, **kwargs)


@contextmanager
def recorded(sampler: Sampler) -> Iterator[Recorder]:
    """Enter it before `attach`, so that the spies come below the hooks."""
    recorder = Recorder(sampler)
    with pytest.MonkeyPatch.context() as swap:
        for name in sampler.makers:
            swap.setattr(sampler.owner, name, recorder.spy_on_maker(name))
        for name, see in ((sampler.sampler, see_sampler), (sampler.smooth, see_smooth)):
            if name in sampler.names:
                put = swap.setitem if isinstance(sampler.namespace, dict) else swap.setattr
                put(sampler.namespace, name, recorder.spy_on_function(name, see))
        yield recorder


def run(
    sampler: Sampler, seed: int = 0, batch: int | None = None, **settings: Any
) -> tuple[Tensor, list[Scale]]:
    """A generation with these settings of `attach`, or an unguided one where there are none."""
    with (
        recorded(sampler) as recorder,
        sampler.attach(sampler.model, **settings) if settings else nullcontext(),
    ):
        return recorder.run(seed, batch)


def same(a: tuple[Tensor, list[Scale]], b: tuple[Tensor, list[Scale]]) -> bool:
    """Bit for bit: what was decided, what the sampler was handed, what it left behind."""
    if not torch.equal(a[0], b[0]) or len(a[1]) != len(b[1]):
        return False
    return all(
        (one is None) == (other is None) and (one is None or torch.equal(one, other))
        for x, y in zip(a[1], b[1], strict=True)
        for one, other in (
            (x.raw, y.raw),
            (x.handed, y.handed),
            (x.masked, y.masked),
            (x.smoothed, y.smoothed),
        )
    )
