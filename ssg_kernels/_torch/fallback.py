"""The operators where no compiled kernel serves a call: Triton or the reference computes it.

That is so in the pure-Python package, on devices without a compiled kernel, and where SSG_KERNELS_BACKEND asks for
another backend. Every function here checks its arguments, resolves the backend, and computes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssg_kernels import _checks, reference
from ssg_kernels._call import GuidedCall, Options, Strength
from ssg_kernels._torch import backends, extension, library, schema


def guided(operator: str, *arguments: object, out: Tensor | None = None) -> Tensor:
    """Any overload of a guided operator."""
    call = GuidedCall.of(operator, *arguments, out=out)
    _checks.guided(call)
    if out is not None:
        _checks.output_memory(call, out)
    backend = backends.resolve(call.logits.device)
    if backend == "cuda":
        given = {} if out is None else {"out": out}
        return getattr(torch.ops.ssg, operator)(*arguments, **given)
    if backend == "triton":
        return backends.triton().guided(call)
    result = reference.compute(call)
    return result.contiguous() if out is None else out.copy_(result)


def prior_linear(
    x: Tensor, scale: Tensor, size: Sequence[int], prev_size: Sequence[int], *others: Any
) -> Tensor:
    """`_prior_linear`: scale * P x, (B, L, V) from (B, L', V), or scale * P^T x."""
    *given, transpose = others
    options = Options(*given)
    _checks.prior_linear(x, scale, size, prev_size, options, transpose)
    backend = backends.resolve(x.device)
    if backend == "cuda":
        return torch.ops.ssg._prior_linear(x, scale, size, prev_size, *others)
    if backend == "triton":
        return backends.triton().prior_linear(x, scale, size, prev_size, options, transpose)
    return reference_prior_linear(x, scale, size, prev_size, options, transpose)


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


def sample(logits: Tensor, uniform: Tensor, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """`sample`."""
    return _sampled("sample", logits, uniform, 1.0, top_k, top_p)


def sample_tempered(
    logits: Tensor, uniform: Tensor, scale: Strength, top_k: int | Tensor = 0, top_p: Strength = 0.0
) -> Tensor:
    """Any overload of `_sample_tempered`."""
    return _sampled("_sample_tempered", logits, uniform, scale, top_k, top_p)


def _sampled(
    name: str, logits: Tensor, uniform: Tensor, scale: Strength, top_k: int | Tensor, top_p: Strength
) -> Tensor:
    _checks.sample(name, logits, uniform, scale, top_k, top_p)
    backend = backends.resolve(logits.device)
    if backend == "cuda":
        given = (top_k, top_p) if name == "sample" else (scale, top_k, top_p)
        return getattr(torch.ops.ssg, name)(logits, uniform, *given)
    draw = backends.triton().sample if backend == "triton" else reference.draw
    return reference.refuse_empty_rows(draw(logits, uniform, scale, top_k, top_p), logits, scale)


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
    kernels: dict[str, Callable[..., Tensor]] = {
        **{o.qualname: functools.partial(guided, o.operator) for o in schema.OVERLOADS},
        schema.PRIOR_LINEAR: prior_linear,
        schema.SAMPLE: sample,
        **dict.fromkeys(schema.TEMPERED, sample_tempered),
    }
    for qualname, kernel in kernels.items():
        library.implement(qualname, kernel, "CompositeExplicitAutograd")
        library.implement(schema.fallback_name(qualname), _with_error(kernel), "CompositeExplicitAutograd")
    extension.take_the_rest(backends.families_of_triton())


_register()
