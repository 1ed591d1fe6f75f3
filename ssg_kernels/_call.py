"""One call of a guided operator, as every part of the package passes it on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ssg_kernels._names import STRENGTHS

Strength = Tensor | float


class Options(NamedTuple):
    """How the prior is made. The defaults are those of the operators' schemas."""

    prior: str = "dse"
    interpolation: str = "bilinear"
    rescale: bool = False


class GuidedCall(NamedTuple):
    """The arguments of `guided_logits` or `guided_logits_cfg`."""

    operator: str
    logits: Tensor
    prev_logits: Tensor
    size: Sequence[int]
    prev_size: Sequence[int]
    strengths: tuple[Strength, ...]
    options: Options
    out: Tensor | None = None

    @staticmethod
    def of(operator: str, *arguments: Any, out: Tensor | None = None) -> GuidedCall:
        """The call from an operator's positional arguments; options that equal their defaults may be left out."""
        end = 4 + len(STRENGTHS[operator])
        logits, prev_logits, size, prev_size = arguments[:4]
        options = Options(*arguments[end:])
        return GuidedCall(operator, logits, prev_logits, size, prev_size, arguments[4:end], options, out)

    @property
    def halves(self) -> int:
        """2 where a conditional and an unconditional half share the batch of the logits, else 1."""
        return 1 if len(self.strengths) == 1 else 2

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the result, (B, L, V)."""
        rows, tokens, vocabulary = self.logits.shape
        return rows // self.halves, tokens, vocabulary
