"""What every call must fulfil, in one wording: the C++ kernels raise the same texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PRIORS = ("dse", "dse_zero_pad", "spatial")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

Strength = Tensor | float


def guided_logits(
    logits: Tensor,
    prev_logits: Tensor,
    size: Sequence[int],
    prev_size: Sequence[int],
    beta: Strength,
    prior: str,
    interpolation: str,
    *,
    out: Tensor | None = None,
) -> None:
    """Raises ValueError where `guided_logits` of these arguments is not defined."""
    _guided("guided_logits", logits, prev_logits, size, prev_size, {"beta": beta}, prior, interpolation, out)


def guided_logits_cfg(
    logits: Tensor,
    prev_logits: Tensor,
    size: Sequence[int],
    prev_size: Sequence[int],
    beta: Strength,
    cfg: Strength,
    prev_cfg: Strength,
    prior: str,
    interpolation: str,
    *,
    out: Tensor | None = None,
) -> None:
    """Raises ValueError where `guided_logits_cfg` of these arguments is not defined."""
    strengths = {"beta": beta, "cfg": cfg, "prev_cfg": prev_cfg}
    _guided("guided_logits_cfg", logits, prev_logits, size, prev_size, strengths, prior, interpolation, out)


def prior_source(
    name: str,
    prev_logits: Tensor,
    size: Sequence[int],
    prev_size: Sequence[int],
    prior: str,
    interpolation: str,
) -> None:
    """Raises ValueError where a prior of these arguments is not defined."""
    _three_dimensional(name, "prev_logits", prev_logits, "L'")
    _floating(name, "prev_logits", prev_logits)
    _sizes(name, size, prev_size)
    _tokens(name, "prev_logits", prev_logits, "L'", "prev_size", prev_size)
    _options(name, prior, interpolation)


def prior_linear(
    x: Tensor,
    scale: Tensor,
    size: Sequence[int],
    prev_size: Sequence[int],
    prior: str,
    interpolation: str,
    transpose: bool,
) -> None:
    """Raises ValueError where `_prior_linear` of these arguments is not defined."""
    name = "_prior_linear"
    _three_dimensional(name, "x", x, "L")
    _floating(name, "x", x)
    _sizes(name, size, prev_size)
    _tokens(name, "x", x, "L", *(("size", size) if transpose else ("prev_size", prev_size)))
    _options(name, prior, interpolation)
    strength(name, "scale", scale, x.shape[0], x.device)


def sample(
    name: str, logits: Tensor, uniform: Tensor, scale: Strength, top_k: int | torch.SymInt, top_p: float
) -> None:
    """Raises ValueError where `sample` of these arguments is not defined."""
    _three_dimensional(name, "logits", logits, "L")
    _floating(name, "logits", logits)
    batch, tokens, vocabulary = logits.shape
    _require(_at_most(1, vocabulary), f"{name}: logits must have at least one vocabulary column, got 0")
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
    _require(
        _at_most(0, top_k) and _at_most(top_k, vocabulary),
        f"{name}: top_k must be from 0 to V = {vocabulary}, got {top_k}",
    )
    _require(0 <= top_p <= 1, f"{name}: top_p must be from 0 to 1, got {top_p:g}")
    strength(name, "scale", scale, batch, logits.device)


def output_memory(name: str, out: Tensor, logits: Tensor, prev_logits: Tensor) -> None:
    """Raises ValueError where writing `out`, of the right shape, would destroy an input before it is read."""
    _require(not _overlap(out, prev_logits), f"{name}: out must not overlap prev_logits")
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
        value.device == device,
        f"{name}: {argument} must be on the device of logits, {device}, got {value.device}",
    )


def _guided(
    name: str,
    logits: Tensor,
    prev_logits: Tensor,
    size: Sequence[int],
    prev_size: Sequence[int],
    strengths: dict[str, Strength],
    prior: str,
    interpolation: str,
    out: Tensor | None,
) -> None:
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
    _sizes(name, size, prev_size)
    _tokens(name, "logits", logits, "L", "size", size)
    _tokens(name, "prev_logits", prev_logits, "L'", "prev_size", prev_size)
    _require(
        prev_logits.shape[0] == logits.shape[0],
        f"{name}: prev_logits must have the batch of logits, {logits.shape[0]}, got {prev_logits.shape[0]}",
    )
    _require(
        prev_logits.shape[2] == logits.shape[2],
        f"{name}: prev_logits must have the vocabulary of logits, {logits.shape[2]}, "
        f"got {prev_logits.shape[2]}",
    )
    _options(name, prior, interpolation)
    batch = logits.shape[0]
    if name == "guided_logits_cfg":
        _require(
            batch % 2 == 0,
            f"{name}: logits must hold an even batch, conditional half first, got {batch}",
        )
        batch = batch // 2
    for argument, value in strengths.items():
        strength(name, argument, value, batch, logits.device)
    if out is not None:
        _output(name, out, logits, prev_logits, batch)


def _output(name: str, out: Tensor, logits: Tensor, prev_logits: Tensor, batch: int) -> None:
    shape = (batch, logits.shape[1], logits.shape[2])
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
        f"{name}: {argument} must be float32, bfloat16, float16 or float64, got {x.dtype}",
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


def _options(name: str, prior: str, interpolation: str) -> None:
    _one_of(name, "prior", prior, PRIORS)
    _one_of(name, "interpolation", interpolation, INTERPOLATIONS)


def _one_of(name: str, argument: str, value: str, choices: tuple[str, ...]) -> None:
    _require(
        value in choices,
        f"{name}: {argument} must be one of {', '.join(map(repr, choices))}, got {value!r}",
    )


def _holds(condition: bool | torch.SymBool) -> bool:
    """Whether it holds; of symbolic sizes that are not known it is assumed, and checked when they are."""
    if isinstance(condition, torch.SymBool):
        return torch.fx.experimental.symbolic_shapes.expect_true(condition)
    return condition


def _at_most(least: int | torch.SymInt, most: int | torch.SymInt) -> bool:
    """Whether it is, or a size is symbolic: a traced graph would be bound to one side, and the kernel checks."""
    return isinstance(least, torch.SymInt) or isinstance(most, torch.SymInt) or least <= most


def _require(condition: bool | torch.SymBool, message: str) -> None:
    if not _holds(condition):
        raise ValueError(message)


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


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
