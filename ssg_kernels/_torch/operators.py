"""The kernels of all operators from three functions of calls: `fake.py` and `fallback.py` are such functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ssg_kernels import _checks
from ssg_kernels._call import GuidedCall, PriorLinearCall, SampleCall
from ssg_kernels._torch import schema


def kernels(
    guided: Callable[[GuidedCall], Tensor],
    prior_linear: Callable[[PriorLinearCall], Tensor],
    sample: Callable[[SampleCall], Tensor],
) -> dict[str, Callable[..., Tensor]]:
    """The kernel of every operator by its qualified name.

    A kernel reads the arguments, checks them, and hands the call to the function of its kind.
    """

    def of_guided(operator: str, *arguments: Any, out: Tensor | None = None) -> Tensor:
        call = GuidedCall.of(operator, *arguments, out=out)
        _checks.guided(call)
        return guided(call)

    def of_prior_linear(*arguments: Any) -> Tensor:
        call = PriorLinearCall.of(*arguments)
        _checks.prior_linear(*call)
        return prior_linear(call)

    def of_sample(operator: str, *arguments: Any) -> Tensor:
        call = SampleCall.of(operator, *arguments)
        _checks.sample(*call)
        return sample(call)

    return {
        **{o.qualname: functools.partial(of_guided, o.operator) for o in schema.OVERLOADS},
        schema.PRIOR_LINEAR: of_prior_linear,
        **{name: functools.partial(of_sample, operator) for name, operator in schema.SAMPLES.items()},
    }
