"""The schemas of the operators in namespace `ssg`, once.

The compiled library registers them when it is loaded, and `library.py` where there is none. The build runs this file
to get them for C++, so it needs nothing but the standard library.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssg_kernels._torch.internals import OpOverload

# The strengths that each guided operator takes, in order. Each strength is a float or a tensor.
STRENGTHS = {
    "guided_logits": ("beta",),
    "guided_logits_cfg": ("beta", "cfg", "prev_cfg"),
}
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
        """Empty where all strengths are tensors, "float" where all are floats, else "float" and their names. An
        overload that writes into `out` ends in "out"."""
        parts = ["float"] if self.floats else []
        if len(self.floats) < len(self.strengths):
            parts += self.floats
        return "_".join([*parts, "out"] if self.is_out else parts)

    @property
    def qualname(self) -> str:
        return f"ssg::{self.operator}" + (f".{self.name}" if self.name else "")

    @property
    def arguments(self) -> str:
        kinds = ", ".join(f"{'float' if s in self.floats else 'Tensor'} {s}" for s in self.strengths)
        out = ", *, Tensor(a!) out" if self.is_out else ""
        return (
            "Tensor logits, Tensor prev_logits, SymInt[2] size, SymInt[2] prev_size, "
            f"{kinds}, {_OPTIONS}{out}"
        )

    @property
    def result(self) -> str:
        return "Tensor(a!)" if self.is_out else "Tensor"

    @property
    def op(self) -> OpOverload:
        return op_of(self.qualname)

    @property
    def functional(self) -> Overload:
        return Overload(self.operator, self.floats, is_out=False)


def _overloads(operator: str) -> list[Overload]:
    strengths = STRENGTHS[operator]
    # A call through the packet tries the overloads in this order. A float parameter would accept a 0-d tensor (and
    # wait for its device), so for each strength the overload with a tensor comes before the one with a float.
    kinds = product((False, True), repeat=len(strengths))
    choices = [tuple(s for s, is_float in zip(strengths, kind, strict=True) if is_float) for kind in kinds]
    return [Overload(operator, floats, is_out) for floats in choices for is_out in (False, True)]


OVERLOADS = [overload for operator in STRENGTHS for overload in _overloads(operator)]

# scale * P x or scale * P^T x, with P the prior's linear map: the derivatives of the guided operators need it.
PRIOR_LINEAR = "ssg::_prior_linear"
# One token per position. `_sample_tempered` first multiplies the logits by `scale`, which is 1 / temperature.
SAMPLE = "ssg::sample"
SAMPLE_TEMPERED = "ssg::_sample_tempered"
SAMPLE_TEMPERED_FLOAT = "ssg::_sample_tempered.float"
# For compiled code, which is bound to the values of numbers: the filters are tensors of shape () or (B,) as well.
SAMPLE_TEMPERED_TENSORS = "ssg::_sample_tempered.tensors"
# All that draw tokens, by qualified name.
SAMPLES = {
    SAMPLE: "sample",
    **dict.fromkeys((SAMPLE_TEMPERED, SAMPLE_TEMPERED_FLOAT, SAMPLE_TEMPERED_TENSORS), "_sample_tempered"),
}

_FILTERS = "SymInt top_k=0, float top_p=0.0"
# qualified name -> (arguments, result)
_SCHEMAS = {
    **{overload.qualname: (overload.arguments, overload.result) for overload in OVERLOADS},
    PRIOR_LINEAR: (
        "Tensor x, Tensor scale, SymInt[2] size, SymInt[2] prev_size, str prior, str interpolation, "
        "bool rescale, bool transpose",
        "Tensor",
    ),
    SAMPLE: (f"Tensor logits, Tensor uniform, {_FILTERS}", "Tensor"),
    SAMPLE_TEMPERED: (f"Tensor logits, Tensor uniform, Tensor scale, {_FILTERS}", "Tensor"),
    SAMPLE_TEMPERED_FLOAT: (f"Tensor logits, Tensor uniform, float scale, {_FILTERS}", "Tensor"),
    SAMPLE_TEMPERED_TENSORS: (
        "Tensor logits, Tensor uniform, Tensor scale, Tensor top_k, Tensor top_p",
        "Tensor",
    ),
}
OPERATORS = tuple(_SCHEMAS)


def fallback_name(qualname: str) -> str:
    """The operator to which a compiled kernel hands a call that it does not serve.

    It takes the same arguments and returns the result and the text of an error, which is empty where there is none: an
    exception would lose its text on the way through the C interface. The text is a tensor of its bytes, since that
    interface mixes up results of different types (up to torch 2.13).
    """
    return "ssg::_fallback_" + qualname.removeprefix("ssg::").removeprefix("_")


def op_of(qualname: str) -> OpOverload:
    """The overload of a qualified name."""
    import torch

    operator, _, overload = qualname.removeprefix("ssg::").partition(".")
    return getattr(getattr(torch.ops.ssg, operator), overload or "default")


def schema(qualname: str) -> str:
    """The schema of an operator, as its definition takes it."""
    arguments, result = _SCHEMAS[qualname]
    return f"{qualname.removeprefix('ssg::')}({arguments}) -> {result}"


def fallback_schema(qualname: str) -> str:
    """The schema of `fallback_name`."""
    arguments, result = _SCHEMAS[qualname]
    return f"{fallback_name(qualname).removeprefix('ssg::')}({arguments}) -> ({result}, Tensor)"


if __name__ == "__main__":
    # A JSON string of ASCII is a string of C++ too.
    print("\n".join(f"{json.dumps(schema(qualname))}," for qualname in OPERATORS))
