"""Calls on a device, and a check against the reference in float64, a few vocabulary columns at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import ssg_kernels
from ssg_kernels import reference
from support.bounds import assert_accurate
from support.strategies import Call

_ELEMENTS = 1 << 26  # a check holds about this many of the fine logits in float64 at once


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor to the device with its strides, and with all of the storage around it."""
    storage = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage()).to(device)
    return storage.as_strided(x.shape, x.stride(), x.storage_offset())


def run(call: Call, logits: Tensor, prev_logits: Tensor, *strengths: float | Tensor, **out: Tensor) -> Tensor:
    function = ssg_kernels.guided_logits_cfg if call.is_cfg else ssg_kernels.guided_logits
    return function(logits, prev_logits, call.size, call.prev_size, *strengths, *call.options, **out)


def random_logits(call: Call, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random logits, made on the device because those of production size take long to make and to send."""
    generator = torch.Generator(device).manual_seed(call.seed)
    rows = 2 * call.batch if call.is_cfg else call.batch
    shapes = [(rows, h * w, call.vocabulary) for h, w in (call.size, call.prev_size)]
    logits, prev_logits = (torch.empty(shape, dtype=call.dtype, device=device) for shape in shapes)
    return logits.normal_(0, 4, generator=generator), prev_logits.normal_(0, 4, generator=generator)


def windows(call: Call, *, most: int | None = None) -> Iterator[tuple[int, slice]]:
    """Windows (sample, columns) that cover the whole result, or at most `most` of them, spread from first to last."""
    width = max(1, min(call.vocabulary, _ELEMENTS // (call.size[0] * call.size[1])))
    every = [
        (sample, slice(start, min(start + width, call.vocabulary)))
        for sample in range(call.batch)
        for start in range(0, call.vocabulary, width)
    ]
    if most is None or len(every) <= most:
        yield from every
    else:
        yield from (every[i * (len(every) - 1) // (most - 1)] for i in range(most))


def assert_right(
    call: Call,
    actual: Tensor,
    logits: Tensor,
    prev_logits: Tensor,
    strengths: tuple[float | Tensor, ...],
    *,
    most: int | None = None,
) -> None:
    """Asserts that `actual` is the result of the step within the bounds, in every window of `windows`."""
    assert actual.dtype == call.dtype
    assert actual.shape == (call.batch, call.size[0] * call.size[1], call.vocabulary)
    function = reference.guided_logits_cfg if call.is_cfg else reference.guided_logits
    for sample, columns in windows(call, most=most):
        rows = [sample, sample + call.batch] if call.is_cfg else [sample]
        fine, coarse = (x[rows][..., columns].double() for x in (logits, prev_logits))
        own = [(s[sample] if s.ndim else s).double() if isinstance(s, Tensor) else s for s in strengths]
        expected = function(fine, coarse, call.size, call.prev_size, *own, *call.options)
        assert_accurate(actual[sample, :, columns][None], expected, fine, coarse)
