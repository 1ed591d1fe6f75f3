"""The operators of namespace `ssg`: every schema, defined here once; kernels are attached elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch._ops import OpOverload

STRENGTHS = {
    "guided_logits": ("beta",),
    "guided_logits_cfg": ("beta", "cfg", "prev_cfg"),
}

LIBRARY = torch.library.Library("ssg", "DEF")

_OPTIONS = 'str prior="dse", str interpolation="bilinear", bool rescale=False'


@dataclass(frozen=True)
class Overload:
    """One overload of a guided operator: which strengths are floats, and whether it writes into `out`."""

    operator: str
    floats: tuple[str, ...]
    is_out: bool

    @property
    def strengths(self) -> tuple[str, ...]:
        return STRENGTHS[self.operator]

    @property
    def name(self) -> str:
        """Nothing for all tensors, "float" for all floats, else that and their names; "out" at the end."""
        parts = ["float"] if self.floats else []
        if len(self.floats) < len(self.strengths):
            parts += self.floats
        return "_".join([*parts, "out"] if self.is_out else parts)

    @property
    def qualname(self) -> str:
        return f"ssg::{self.operator}" + (f".{self.name}" if self.name else "")

    @property
    def schema(self) -> str:
        kinds = ", ".join(f"{'float' if s in self.floats else 'Tensor'} {s}" for s in self.strengths)
        out, returns = (", *, Tensor(a!) out", "Tensor(a!)") if self.is_out else ("", "Tensor")
        inputs = "Tensor logits, Tensor prev_logits, SymInt[2] size, SymInt[2] prev_size"
        return f"{self.qualname}({inputs}, {kinds}, {_OPTIONS}{out}) -> {returns}"

    @property
    def op(self) -> OpOverload:
        packet = getattr(torch.ops.ssg, self.operator)
        return getattr(packet, self.name or "default")

    @property
    def functional(self) -> Overload:
        return Overload(self.operator, self.floats, is_out=False)


def _overloads(operator: str) -> list[Overload]:
    strengths = STRENGTHS[operator]
    # A call through the packet tries them in this order, and a float parameter would swallow a 0-d tensor
    # (and wait for its device): tensors before floats, position by position, fails before that happens.
    kinds = product((False, True), repeat=len(strengths))
    choices = [tuple(s for s, is_float in zip(strengths, kind, strict=True) if is_float) for kind in kinds]
    return [Overload(operator, floats, is_out) for floats in choices for is_out in (False, True)]


OVERLOADS = [overload for operator in STRENGTHS for overload in _overloads(operator)]

# P or P^T of a prior, times a strength per sample: what the derivatives of the guided operators are made of.
PRIOR_LINEAR = "ssg::_prior_linear"
# One token per position; `_sample_tempered` multiplies the logits by `scale`, 1 / temperature, first.
SAMPLE = "ssg::sample"
SAMPLE_TEMPERED = "ssg::_sample_tempered"
SAMPLE_TEMPERED_FLOAT = "ssg::_sample_tempered.float"
# Where a compiled kernel cannot serve, it asks whether Python may, and hands its checked arguments over.
PYTHON = (
    "ssg::_python_guided_logits",
    "ssg::_python_guided_logits_cfg",
    "ssg::_python_prior_linear",
    "ssg::_python_sample",
    "ssg::_python_problem",
)

_PRIOR_LINEAR_ARGUMENTS = (
    "(Tensor x, Tensor scale, SymInt[2] size, SymInt[2] prev_size, str prior, str interpolation, "
    "bool rescale, bool transpose) -> Tensor"
)
_SAMPLED = "SymInt top_k=0, float top_p=0.0) -> Tensor"
_TAGS = (torch.Tag.pt2_compliant_tag,)

for _overload in OVERLOADS:
    LIBRARY.define(_overload.schema.removeprefix("ssg::"), tags=_TAGS)
for _operator, _strengths in STRENGTHS.items():
    LIBRARY.define(
        f"_python_{_operator}(Tensor logits, Tensor prev_logits, SymInt[2] size, SymInt[2] prev_size, "
        + "".join(f"Tensor {strength}, " for strength in _strengths)
        + "str prior, str interpolation, bool rescale, Tensor(a!) out) -> Tensor(a!)",
        tags=_TAGS,
    )
LIBRARY.define("_python_prior_linear" + _PRIOR_LINEAR_ARGUMENTS, tags=_TAGS)
LIBRARY.define("_python_sample(Tensor logits, Tensor uniform, Tensor scale, " + _SAMPLED, tags=_TAGS)
LIBRARY.define("_python_problem(Tensor x) -> str", tags=_TAGS)
LIBRARY.define("_prior_linear" + _PRIOR_LINEAR_ARGUMENTS, tags=_TAGS)
LIBRARY.define("sample(Tensor logits, Tensor uniform, " + _SAMPLED, tags=_TAGS)
LIBRARY.define("_sample_tempered(Tensor logits, Tensor uniform, Tensor scale, " + _SAMPLED, tags=_TAGS)
LIBRARY.define("_sample_tempered.float(Tensor logits, Tensor uniform, float scale, " + _SAMPLED, tags=_TAGS)


def implement(qualname: str, kernel: Callable[..., object], key: str, *, with_keyset: bool = False) -> None:
    """Attaches `kernel` to the operator under the dispatch key."""
    LIBRARY.impl(qualname.removeprefix("ssg::"), kernel, key, with_keyset=with_keyset)
