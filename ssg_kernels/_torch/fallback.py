"""The operators where no compiled kernel serves a call: Triton or the reference computes it.

That is so in the pure-Python package, on devices without a compiled kernel, and where SSG_KERNELS_BACKEND asks for
another backend. Every function here takes a checked call, resolves the backend, and computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssg_kernels import _checks, reference
from ssg_kernels._call import GuidedCall, Options, PriorLinearCall, SampleCall
from ssg_kernels._torch import backends, extension, library, operators, schema


def guided(call: GuidedCall) -> Tensor:
    """Any overload of a guided operator."""
    if call.out is not None:
        _checks.output_memory(call, call.out)
    backend = backends.resolve(call.logits.device)
    if backend == "cuda":
        given = {} if call.out is None else {"out": call.out}
        return getattr(torch.ops.ssg, call.operator)(*call.arguments, **given)
    if backend == "triton":
        return backends.triton().guided(call)
    result = reference.compute(call)
    return result.contiguous() if call.out is None else call.out.copy_(result)


def prior_linear(call: PriorLinearCall) -> Tensor:
    """`_prior_linear`."""
    backend = backends.resolve(call.x.device)
    if backend == "cuda":
        return torch.ops.ssg._prior_linear(*call.arguments)
    if backend == "triton":
        return backends.triton().prior_linear(*call)
    return reference_prior_linear(*call)


def reference_prior_linear(
    x: Tensor, scale: Tensor, size: Sequence[int], prev_size: Sequence[int], options: Options, transpose: bool
) -> Tensor:
    """`_prior_linear` of checked arguments in plain PyTorch."""
    # The columns of the prior's matrix are the priors of the unit vectors.
    coarse_tokens = prev_size[0] * prev_size[1]
    accurate = torch.float64 if x.dtype == torch.float64 else torch.float32
    units = torch.eye(coarse_tokens, dtype=accurate, device=x.device)[None]
    matrix = reference.dse_prior(units, size, prev_size, *options)[0]
    result = reference.product(matrix.mT if transpose else matrix, x.to(accurate))
    return (scale.to(accurate).reshape(-1, 1, 1) * result).to(x.dtype).contiguous()


def sample(call: SampleCall) -> Tensor:
    """`sample`, or any overload of `_sample_tempered`."""
    backend = backends.resolve(call.logits.device)
    if backend == "cuda":
        return getattr(torch.ops.ssg, call.operator)(*call.arguments)
    draw = backends.triton().sample if backend == "triton" else reference.draw
    tokens = draw(call.logits, call.uniform, call.scale, call.top_k, call.top_p)
    return reference.refuse_empty_rows(tokens, call.logits, call.scale)


def _with_error(kernel: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """The kernel with its error as a text: what `schema.fallback_name` promises."""

    def guarded(*arguments: object, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        given = {} if out is None else {"out": out}
        try:
            return kernel(*arguments, **given), torch.empty(0, dtype=torch.uint8)
        except Exception as error:  # whatever it is, the caller raises it again
            text = str(error) or type(error).__name__
            return torch.empty(0) if out is None else out, torch.tensor(
                list(text.encode()), dtype=torch.uint8
            )

    return guarded


def _register() -> None:
    for qualname, kernel in operators.kernels(guided, prior_linear, sample).items():
        library.implement(qualname, kernel, "CompositeExplicitAutograd")
        library.implement(schema.fallback_name(qualname), _with_error(kernel), "CompositeExplicitAutograd")
    extension.take_the_rest(backends.families_of_triton())


_register()
