"""A step to be planned, executed and counted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from bench.schedules import Size


@dataclass(frozen=True)
class Case:
    size: Size
    prev_size: Size
    batch: int
    vocabulary: int
    dtype: torch.dtype
    cfg: bool = False
    of: str = ""  # what the step is part of

    @property
    def name(self) -> str:
        return "->".join(str(h) if h == w else f"{h}x{w}" for h, w in (self.prev_size, self.size))

    @property
    def halves(self) -> int:
        return 2 if self.cfg else 1

    @property
    def tokens(self) -> int:
        return math.prod(self.size)

    @property
    def bytes_of_map(self) -> int:
        return self.halves * math.prod(self.prev_size) * self.batch * self.vocabulary * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        rows = (self.halves + 1) * self.tokens
        return rows * self.batch * self.vocabulary * self.dtype.itemsize + self.bytes_of_map

    @property
    def strengths(self) -> tuple[float, ...]:
        return (0.5, 1.5, 0.75) if self.cfg else (0.5,)

    @property
    def operator(self) -> str:
        return "guided_logits_cfg" if self.cfg else "guided_logits"

    @property
    def apart(self) -> Case:
        """All that a block knows of its step."""
        return replace(self, batch=1, of="")
