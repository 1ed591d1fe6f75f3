"""Chooses the overload that a call of `torch.ops.ssg.guided_logits` means, by the types of its strengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssg_kernels._names import STRENGTHS
from ssg_kernels._torch import schema
from ssg_kernels._torch.internals import OpOverloadPacket, unwrapped

_FIRST_STRENGTH = 4  # after logits, prev_logits, size and prev_size


class GuidedPacket(OpOverloadPacket):
    """A packet that looks at the types of the strengths.

    Torch itself would try the overloads one by one. Each one that does not fit takes it some 50 microseconds, for an
    error message that nobody reads, and a call with floats would pay that up to seven times.
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
    for operator, strengths in STRENGTHS.items():
        packet = getattr(torch.ops.ssg, operator)
        packet._strengths = strengths
        packet._choices = {
            (overload.is_out, *(strength not in overload.floats for strength in strengths)): unwrapped(
                overload.op
            )
            for overload in schema.OVERLOADS
            if overload.operator == operator
        }
        # Torch made the packet, and the overloads know it: only the way it is called changes.
        packet.__class__ = GuidedPacket


_install()
