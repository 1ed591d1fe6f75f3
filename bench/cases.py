"""The steps that are timed, and their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .schedules import VAR_256

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Every floating dtype holds these exactly, so that no contender is judged by how it rounds a scalar.
BETA = 0.75
CFG = 1.5
PREV_CFG = 1.25


@dataclass(frozen=True)
class Case:
    """One guidance step. ``batch`` is the batch of the result; with ``cfg`` the inputs hold twice as many."""

    name: str
    group: str
    prev_size: tuple[int, int]
    size: tuple[int, int]
    batch: int = 1
    vocab: int = 4096
    cfg: bool = False

    @property
    def label(self) -> str:
        batch = f", B = {self.batch}" if self.batch > 1 else ""
        return f"{self.group}, {self.prev_size[0]} → {self.size[0]}{batch}"

    @property
    def tokens(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def prev_tokens(self) -> int:
        return self.prev_size[0] * self.prev_size[1]

    @property
    def input_batch(self) -> int:
        return 2 * self.batch if self.cfg else self.batch

    def input_bytes(self, dtype: torch.dtype) -> int:
        return self.input_batch * (self.tokens + self.prev_tokens) * self.vocab * dtype.itemsize

    def output_bytes(self, dtype: torch.dtype) -> int:
        return self.batch * self.tokens * self.vocab * dtype.itemsize

    def bytes_moved(self, dtype: torch.dtype) -> int:
        """The traffic that no step can avoid: read all logits of both scales once, write all guided ones once."""
        return self.input_bytes(dtype) + self.output_bytes(dtype)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "label": self.label,
            "group": self.group,
            "op": "guided_logits_cfg" if self.cfg else "guided_logits",
            "prev_size": list(self.prev_size),
            "size": list(self.size),
            "batch": self.batch,
            "vocab": self.vocab,
        }


def square(
    name: str, group: str, n: int, m: int, batch: int = 1, vocab: int = 4096, cfg: bool = False
) -> Case:
    return Case(name, group, (n, n), (m, m), batch, vocab, cfg)


CASES: tuple[Case, ...] = (
    *(square(f"var256-{n}-{m}", "VAR-256", n, m) for n, m in pairwise(VAR_256)),
    square("var256-13-16-b8", "VAR-256", 13, 16, batch=8),
    square("var512-24-32", "VAR-512", 24, 32),
    square("1024px-48-64", "1024px", 48, 64),
    square("bitwise-48-64-b2", "bitwise", 48, 64, batch=2, vocab=64),
    square("cfg-13-16", "VAR-256 cfg", 13, 16, cfg=True),
    square("cfg-13-16-b8", "VAR-256 cfg", 13, 16, batch=8, cfg=True),
)
QUICK = ("var256-1-2", "var256-5-6", "var256-13-16", "bitwise-48-64-b2", "cfg-13-16")


def select(patterns: Iterable[str] | None) -> list[Case]:
    """The cases whose names match one of the shell patterns, in the order of ``CASES``. None selects all cases.

    Raises ValueError for a pattern that matches nothing.
    """
    if patterns is None:
        return list(CASES)
    patterns = list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(case.name, pattern) for case in CASES):
            raise ValueError(f"no case matches {pattern!r}; there are {', '.join(c.name for c in CASES)}")
    return [case for case in CASES if any(fnmatchcase(case.name, p) for p in patterns)]


def make_inputs(
    case: Case, dtype: torch.dtype, sets: int = 1, seed: int = 0
) -> Sequence[tuple[Tensor, Tensor]]:
    """``sets`` pairs (logits, prev_logits), standard normal times 4. All pairs have the same values in other memory."""
    generator = torch.Generator().manual_seed(seed)
    pair = tuple(
        (torch.randn(case.input_batch, tokens, case.vocab, generator=generator) * 4).to(dtype)
        for tokens in (case.tokens, case.prev_tokens)
    )
    return [(pair[0], pair[1])] + [(pair[0].clone(), pair[1].clone()) for _ in range(sets - 1)]
