"""A call of an operator, as every part of the package passes it on."""

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
    def arguments(self) -> tuple[Any, ...]:
        """The operator's positional arguments."""
        return (self.logits, self.prev_logits, self.size, self.prev_size, *self.strengths, *self.options)

    @property
    def halves(self) -> int:
        """2 where a conditional and an unconditional half share the batch of the logits, else 1."""
        return 1 if len(self.strengths) == 1 else 2

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the result, (B, L, V)."""
        rows, tokens, vocabulary = self.logits.shape
        return rows // self.halves, tokens, vocabulary


class PriorLinearCall(NamedTuple):
    """The arguments of `_prior_linear`: scale * P x, (B, L, V) from (B, L', V), or scale * P^T x."""

    x: Tensor
    scale: Tensor
    size: Sequence[int]
    prev_size: Sequence[int]
    options: Options
    transpose: bool

    @staticmethod
    def of(*arguments: Any) -> PriorLinearCall:
        """The call from the operator's arguments."""
        x, scale, size, prev_size, *options, transpose = arguments
        return PriorLinearCall(x, scale, size, prev_size, Options(*options), transpose)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The operator's arguments."""
        return (self.x, self.scale, self.size, self.prev_size, *self.options, self.transpose)


class SampleCall(NamedTuple):
    """The arguments of `sample`, whose scale is 1, or of `_sample_tempered`."""

    operator: str
    logits: Tensor
    uniform: Tensor
    scale: Strength
    top_k: int | Tensor = 0
    top_p: Strength = 0.0

    @staticmethod
    def of(operator: str, logits: Tensor, uniform: Tensor, *others: Any) -> SampleCall:
        """The call from an operator's arguments; filters that equal their defaults may be left out."""
        scaled = others if operator != "sample" else (1.0, *others)
        return SampleCall(operator, logits, uniform, *scaled)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The operator's arguments."""
        scale = () if self.operator == "sample" else (self.scale,)
        return (self.logits, self.uniform, *scale, self.top_k, self.top_p)
