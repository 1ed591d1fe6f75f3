"""A sampler as the checks take it: how it is run and guided, and what upstream says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


def ramp(cfg: float, stages: int) -> Callable[[int, Tensor, int], Tensor]:
    """cfg as VAR merges it: t grows with the scale."""

    def merge(scale: int, raw: Tensor, batch: int) -> Tensor:
        t = cfg * (scale / stages)
        return (1 + t) * raw[:batch] - t * raw[batch:]

    return merge


@dataclass
class Sampler:
    """A sampler to be guided, with what upstream says of it."""

    attach: Callable[..., Any]
    model: Any
    generate: Callable[[Any, int, int], Tensor]
    """(model, batch, seed) to all that the generation decided."""
    sizes: Sequence[Any]
    """(h, w) or (t, h, w) of each scale."""
    namespace: Any
    """The globals of the module that the sampler function is in, or the class that it is a method of."""
    merge: Callable[[int, Tensor, int], Tensor]
    """(scale, raw logits, batch) to what cfg makes of them, in their own dtype."""
    owner: Any = None
    makers: tuple[str, ...] = ("get_logits",)
    """The methods of `owner` (the model) that make logits; those of the first are guided."""
    sampler: str = "sample_with_top_k_top_p_"
    smooth: str = "gumbel_softmax_with_rng"
    source: Callable[[int, Tensor], Tensor] = lambda scale, raw: raw
    """The grid within the raw logits."""
    tokens: Callable[[Tensor, tuple[int, int]], Tensor] = lambda handed, size: handed
    """(B, h*w, V) of what the sampler is handed."""
    gain: Callable[[int], float] = lambda scale: 1.0
    """What `more_smooth` multiplies the logits by before it hands them to the Gumbel sampler."""
    batch: int = 2
    K: int = 0
    """How many scales the schedule has, where the generation stops before its end; `sizes` are those that come."""
    numbers: Sequence[int] = ()
    """Which scale of the schedule each of the `sizes` is, from 0 on, where the sampler leaves some out."""
    repeats: Sequence[int] = ()
    """How often each scale comes."""
    batches: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.owner is None:
            self.owner = self.model
        self.K = self.K or len(self.sizes)
        self.numbers = self.numbers or range(len(self.sizes))
        self.batches = self.batches or (self.batch, self.batch + 1)

    @property
    def scales(self) -> list[int]:
        """The scale of each prediction."""
        repeats = self.repeats or [1] * len(self.sizes)
        return [k for k, times in enumerate(repeats) for _ in range(times)]

    def stopping(self, count: int) -> Sampler:
        """The same where the generation stops after so many scales."""
        return dataclasses.replace(self, sizes=self.sizes[:count], K=self.K, repeats=())

    @property
    def names(self) -> dict[str, Any]:
        """What the namespace has; of a class, the functions that are spied on."""
        if isinstance(self.namespace, dict):
            return dict(self.namespace)
        spied = (self.sampler, self.smooth)
        return {name: getattr(self.namespace, name) for name in spied if hasattr(self.namespace, name)}

    def starts_at(self, scale: int) -> int:
        """The scale at which the pyramid of this one begins: sides shrink there."""
        k = scale
        while k and min(b - a for a, b in zip(self.sizes[k - 1][-2:], self.sizes[k][-2:], strict=True)) >= 0:
            k -= 1
        return k

    def factor(self, schedule: Any, scale: int) -> float:
        """What beta is multiplied by at a scale. K counts the scales of its pyramid."""
        number = self.numbers[scale]
        if schedule not in ("linear", "static"):
            return schedule[number]
        start = self.starts_at(scale)
        alike = [k for k in range(len(self.sizes)) if self.starts_at(k) == start]
        count = self.K if len(alike) == len(self.sizes) else len(alike)
        return multipliers(schedule, count)[number - self.numbers[start]]

    @property
    def maker(self) -> tuple[Any, str]:
        return self.owner, self.makers[0]

    def batch_of(self, batch: int | None) -> int:
        return self.batch if batch is None else batch


def multipliers(schedule: Any, count: int) -> Sequence[float]:
    if schedule == "linear":
        return [1 - k / count for k in range(count)]
    return [1.0] * count if schedule == "static" else schedule
