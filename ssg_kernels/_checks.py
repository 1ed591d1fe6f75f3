"""The conditions that every call must fulfil.

`csrc/torch/checks.cpp` has the same functions with the same sentences, since the compiled library checks its calls
itself. `tests/ops/test_errors.py` compares the two over the whole table of wrong calls.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ssg_kernels._call import GuidedCall, Options, Strength
from ssg_kernels._names import (
    DTYPES,
    INTERPOLATIONS,
    PRIORS,
    STRENGTH_DTYPES,
    STRENGTHS,
    dtype_names,
    quoted,
)


def guided(call: GuidedCall) -> None:
    """Raises ValueError where the call is not defined."""
    name, logits, prev_logits = call.operator, call.logits, call.prev_logits
    _three_dimensional(name, "logits", logits, "L")
    _three_dimensional(name, "prev_logits", prev_logits, "L'")
    _floating(name, "logits", logits)
    _require(
        prev_logits.dtype == logits.dtype,
        f"{name}: prev_logits must have the dtype of logits, {logits.dtype}, got {prev_logits.dtype}",
    )
    _require(
        prev_logits.device == logits.device,
        f"{name}: prev_logits must be on the device of logits, {logits.device}, got {prev_logits.device}",
    )
    _sizes(name, call.size, call.prev_size)
    _tokens(name, "logits", logits, "L", "size", call.size)
    _tokens(name, "prev_logits", prev_logits, "L'", "prev_size", call.prev_size)
    _require(
        prev_logits.shape[0] == logits.shape[0],
        f"{name}: prev_logits must have the batch of logits, {logits.shape[0]}, got {prev_logits.shape[0]}",
    )
    _require(
        prev_logits.shape[2] == logits.shape[2],
        f"{name}: prev_logits must have the vocabulary of logits, {logits.shape[2]}, "
        f"got {prev_logits.shape[2]}",
    )
    _options(name, call.options)
    if call.halves == 2:
        _require(
            logits.shape[0] % 2 == 0,
            f"{name}: logits must hold an even batch, conditional half first, got {logits.shape[0]}",
        )
    for argument, value in zip(STRENGTHS[name], call.strengths, strict=True):
        strength(name, argument, value, call.shape[0], logits.device)
    if call.out is not None:
        _output(call, call.out)


def prior_source(
    name: str, prev_logits: Tensor, size: Sequence[int], prev_size: Sequence[int], options: Options
) -> None:
    """Raises ValueError where a prior of these arguments is not defined."""
    _three_dimensional(name, "prev_logits", prev_logits, "L'")
    _floating(name, "prev_logits", prev_logits)
    _sizes(name, size, prev_size)
    _tokens(name, "prev_logits", prev_logits, "L'", "prev_size", prev_size)
    _countable(name, size)
    _options(name, options)


def prior_linear(
    x: Tensor,
    scale: Tensor,
    size: Sequence[int],
    prev_size: Sequence[int],
    options: Options,
    transpose: bool,
) -> None:
    """Raises ValueError where `_prior_linear` of these arguments is not defined."""
    name = "_prior_linear"
    _three_dimensional(name, "x", x, "L")
    _floating(name, "x", x)
    _sizes(name, size, prev_size)
    _tokens(name, "x", x, "L", *(("size", size) if transpose else ("prev_size", prev_size)))
    _countable(name, size)
    _options(name, options)
    strength(name, "scale", scale, x.shape[0], x.device)


def sample(
    name: str,
    logits: Tensor,
    uniform: Tensor,
    scale: Strength,
    top_k: int | torch.SymInt | Tensor,
    top_p: Strength,
) -> None:
    """Raises ValueError where `sample` of these arguments is not defined."""
    _three_dimensional(name, "logits", logits, "L")
    _floating(name, "logits", logits)
    batch, tokens, vocabulary = logits.shape
    _require(_at_most(1, vocabulary), f"{name}: logits must have at least one vocabulary column, got 0")
    # Sums of weights must stay below 2**62.
    _require(
        _at_most(vocabulary, 2**23),
        f"{name}: logits must have at most 8388608 vocabulary columns, got {vocabulary}",
    )
    _require(
        uniform.ndim == 2 and _holds(uniform.shape[0] == batch) and _holds(uniform.shape[1] == tokens),
        f"{name}: uniform must have shape (B, L) = ({batch}, {tokens}), got {_shape(uniform)}",
    )
    _require(
        uniform.dtype in (torch.float32, torch.float64),
        f"{name}: uniform must be float32 or float64, got {uniform.dtype}",
    )
    _require(
        uniform.device == logits.device,
        f"{name}: uniform must be on the device of logits, {logits.device}, got {uniform.device}",
    )
    if isinstance(top_k, Tensor):
        strength(name, "top_k", top_k, batch, logits.device)
    else:
        _require(
            _at_most(0, top_k) and _at_most(top_k, vocabulary),
            f"{name}: top_k must be from 0 to V = {vocabulary}, got {top_k}",
        )
    if not isinstance(top_p, Tensor):
        _require(0 <= top_p <= 1, f"{name}: top_p must be from 0 to 1, got {top_p:g}")
    strength(name, "top_p", top_p, batch, logits.device)
    strength(name, "scale", scale, batch, logits.device)


def output_memory(call: GuidedCall, out: Tensor) -> None:
    """Raises ValueError where writing `out`, of the right shape, would destroy an input before it is read."""
    name, logits = call.operator, call.logits
    _require(not _repeats(out), f"{name}: out must not share memory between its elements")
    _require(not _overlap(out, call.prev_logits), f"{name}: out must not overlap prev_logits")
    strides = zip(out.shape, out.stride(), logits.stride(), strict=True)
    is_itself = out.data_ptr() == logits.data_ptr() and all(n <= 1 or a == b for n, a, b in strides)
    others = logits[out.shape[0] :] if is_itself else logits
    _require(not _overlap(out, others), f"{name}: out must be logits itself or not overlap it")


def strength(name: str, argument: str, value: Strength, batch: int, device: torch.device) -> None:
    """Raises ValueError unless `value` is a float or a real tensor on `device` of shape () or (batch,)."""
    if not isinstance(value, Tensor):
        return
    _require(
        value.ndim == 0 or (value.ndim == 1 and _holds(value.shape[0] == batch)),
        f"{name}: {argument} must be a float or a tensor of shape () or ({batch},), "
        f"got shape {_shape(value)}",
    )
    _require(not value.dtype.is_complex, f"{name}: {argument} must be a real tensor, got {value.dtype}")
    _require(
        value.dtype in STRENGTH_DTYPES,
        f"{name}: {argument} must be a float or a tensor of {dtype_names(STRENGTH_DTYPES)}, got {value.dtype}",
    )
    _require(
        value.device == device,
        f"{name}: {argument} must be on the device of logits, {device}, got {value.device}",
    )


def _output(call: GuidedCall, out: Tensor) -> None:
    name, logits, shape = call.operator, call.logits, call.shape
    fits = (
        out.ndim == 3
        and all(_holds(given == wanted) for given, wanted in zip(out.shape, shape, strict=True))
        and out.dtype == logits.dtype
        and out.device == logits.device
    )
    _require(
        fits and _holds((out.stride(2) == 1) | (out.shape[2] <= 1)),
        f"{name}: out must be a {shape} {logits.dtype} tensor on {logits.device} with a contiguous "
        f"vocabulary, got {_shape(out)} {out.dtype} on {out.device}",
    )


def _three_dimensional(name: str, argument: str, x: Tensor, tokens: str) -> None:
    _require(x.ndim == 3, f"{name}: {argument} must be a 3-D tensor (B, {tokens}, V), got {x.ndim}-D")


def _floating(name: str, argument: str, x: Tensor) -> None:
    _require(
        x.dtype in DTYPES,
        f"{name}: {argument} must be {dtype_names()}, got {x.dtype}",
    )


def _sizes(name: str, size: Sequence[int], prev_size: Sequence[int]) -> None:
    for argument, value in (("size", size), ("prev_size", prev_size)):
        _require(
            len(value) == 2 and all(_holds(n >= 1) for n in value),
            f"{name}: {argument} must be two positive integers, got {tuple(value)}",
        )
    _require(
        all(_holds(prev_n <= n) for prev_n, n in zip(prev_size, size, strict=True)),
        f"{name}: prev_size must not exceed size, got prev_size {tuple(prev_size)} and size {tuple(size)}",
    )


def _tokens(
    name: str, argument: str, x: Tensor, tokens: str, size_argument: str, size: Sequence[int]
) -> None:
    h, w = size
    _require(
        x.shape[1] == h * w,
        f"{name}: {argument} must have {tokens} = {h}*{w} = {h * w} tokens for "
        f"{size_argument} ({h}, {w}), got {x.shape[1]}",
    )


def _countable(name: str, size: Sequence[int]) -> None:
    """No tensor has `size` here, so its tokens may be more than a tensor can have."""
    h, w = size
    _require(
        _at_most(h * w, 2**63 - 1), f"{name}: size must have fewer than 2**63 tokens, got {h}*{w} = {h * w}"
    )


def _options(name: str, options: Options) -> None:
    _one_of(name, "prior", options.prior, PRIORS)
    _one_of(name, "interpolation", options.interpolation, INTERPOLATIONS)


def _one_of(name: str, argument: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, f"{name}: {argument} must be one of {quoted(choices)}, got {value!r}")


def _holds(condition: bool | torch.SymBool) -> bool:
    """Whether the condition holds. One of symbolic sizes is assumed to hold, and checked when the sizes are known."""
    if not isinstance(condition, torch.SymBool):
        return condition
    try:
        torch._check(condition)
    except RuntimeError:
        return False
    return True


def _at_most(least: int | torch.SymInt, most: int | torch.SymInt) -> bool:
    """Whether least <= most, or one of them is symbolic: a traced graph must not be bound to one side of the
    comparison, and the kernel checks again."""
    return isinstance(least, torch.SymInt) or isinstance(most, torch.SymInt) or least <= most


def _require(condition: bool | torch.SymBool, message: str) -> None:
    if not _holds(condition):
        raise ValueError(message)


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def _repeats(x: Tensor) -> bool:
    """Whether rows of a (B, T, V) tensor share memory with each other, as those of an expanded tensor do."""
    batch, tokens, vocabulary = x.shape
    if not x.numel():
        return False
    width = (vocabulary - 1) * x.stride(2) + 1
    plane = (tokens - 1) * x.stride(1) + width
    if (tokens == 1 or x.stride(1) >= width) and (batch == 1 or x.stride(0) >= plane):
        return False
    return any(start < end for (_, end), (start, _) in itertools.pairwise(_rows(x)))


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two (B, T, V) tensors share memory; rows of one that lie between rows of the other do not."""
    rows = [_rows(x) for x in (a, b)]
    if not all(rows) or rows[0][-1][1] <= rows[1][0][0] or rows[1][-1][1] <= rows[0][0][0]:
        return False
    ends = [0, 0]
    for start, end, owner in sorted((*row, i) for i in (0, 1) for row in rows[i]):
        if start < ends[1 - owner]:
            return True
        ends[owner] = max(ends[owner], end)
    return False


def _rows(x: Tensor) -> list[tuple[int, int]]:
    """The addresses at which the vocabulary rows of (B, T, V) begin and end, in order."""
    batch, tokens, vocabulary = x.shape
    if vocabulary == 0:
        return []
    width = ((vocabulary - 1) * x.stride(2) + 1) * x.itemsize
    starts = (
        x.data_ptr() + (b * x.stride(0) + t * x.stride(1)) * x.itemsize
        for b in range(batch)
        for t in range(tokens)
    )
    return sorted((start, start + width) for start in starts)
