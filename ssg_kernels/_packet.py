"""Which overload a call of `torch.ops.ssg.guided_logits` means, told from its arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverloadPacket

from ssg_kernels import _schema

_FIRST_STRENGTH = 4  # after logits, prev_logits, size and prev_size


class GuidedPacket(OpOverloadPacket):
    """Torch tries a packet's overloads one by one, and each that does not fit costs it some 50 microseconds
    for an error message that nobody reads; a call with floats would pay that up to seven times. Here the
    types of the strengths decide.
    """

    _strengths: tuple[str, ...]
    _choices: dict[tuple[bool, ...], Any]

    def __call__(self, /, *args: Any, **kwargs: Any) -> Tensor:
        choice = ["out" in kwargs]
        for position, strength in enumerate(self._strengths, _FIRST_STRENGTH):
            value = args[position] if position < len(args) else kwargs.get(strength)
            choice.append(isinstance(value, Tensor))
        return self._choices[tuple(choice)](*args, **kwargs)


def _install() -> None:
    for operator, strengths in _schema.STRENGTHS.items():
        packet = getattr(torch.ops.ssg, operator)
        packet._strengths = strengths
        packet._choices = {
            (overload.is_out, *(strength not in overload.floats for strength in strengths)): overload.op._op
            for overload in _schema.OVERLOADS
            if overload.operator == operator
        }
        # The packet is made by torch and already known to its overloads: only its call changes.
        packet.__class__ = GuidedPacket


_install()
