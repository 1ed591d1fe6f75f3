"""torch.func.vmap over every subset of the tensors, against a loop."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import ssg_kernels

pytestmark = pytest.mark.usefixtures("backend")

SIZE, PREV_SIZE, COUNT, BATCH = (3, 2), (2, 2), 3, 2


def guide(logits: Tensor, prev_logits: Tensor, *strengths: Tensor | float) -> Tensor:
    function = ssg_kernels.guided_logits if len(strengths) == 1 else ssg_kernels.guided_logits_cfg
    return function(logits, prev_logits, SIZE, PREV_SIZE, *strengths, "dse", "bicubic", True)


def mapped(shape: tuple[int, ...], dim: int | None) -> Tensor:
    """A tensor of `shape`, with the mapped dimension at `dim`."""
    shape = shape if dim is None else (*shape[:dim], COUNT, *shape[dim:]) if dim >= 0 else (*shape, COUNT)
    return torch.randn(shape, dtype=torch.float64)


def check(inputs: tuple, in_dims: tuple, out_dim: int = 0) -> None:
    ours = torch.func.vmap(guide, in_dims, out_dim)(*inputs)
    calls = (
        [x if dim is None else x.select(dim, i) for x, dim in zip(inputs, in_dims, strict=True)]
        for i in range(COUNT)
    )
    torch.testing.assert_close(ours, torch.stack([guide(*call) for call in calls], out_dim))


@pytest.mark.parametrize("beta", [(), (BATCH,)])
@pytest.mark.parametrize("is_mapped", [m for m in itertools.product((True, False), repeat=3) if any(m)])
def test_subsets(is_mapped: tuple[bool, ...], beta: tuple[int, ...]) -> None:
    in_dims = tuple(0 if m else None for m in is_mapped)
    shapes = ((BATCH, 6, 4), (BATCH, 4, 4), beta)
    check(tuple(mapped(shape, dim) for shape, dim in zip(shapes, in_dims, strict=True)), in_dims)


@pytest.mark.parametrize("in_dims", [(0, 0, None), (0, None, None), (None, 0, None)])
def test_subsets_with_a_float(in_dims: tuple) -> None:
    check((mapped((BATCH, 6, 4), in_dims[0]), mapped((BATCH, 4, 4), in_dims[1]), 0.7), in_dims)


@pytest.mark.parametrize("is_mapped", [m for m in itertools.product((True, False), repeat=5) if any(m)])
def test_subsets_cfg(is_mapped: tuple[bool, ...]) -> None:
    in_dims = tuple(0 if m else None for m in is_mapped)
    shapes = ((2 * BATCH, 6, 4), (2 * BATCH, 4, 4), (), (BATCH,), ())
    check(tuple(mapped(shape, dim) for shape, dim in zip(shapes, in_dims, strict=True)), in_dims)


@pytest.mark.parametrize("in_dims", [(1, 2, 1), (3, 0, 0), (-1, 1, -1), (2, None, None)])
@pytest.mark.parametrize("out_dim", [0, 2, -1])
def test_dimensions(in_dims: tuple, out_dim: int) -> None:
    shapes = ((BATCH, 6, 4), (BATCH, 4, 4), (BATCH,))
    check(tuple(mapped(shape, dim) for shape, dim in zip(shapes, in_dims, strict=True)), in_dims, out_dim)


def test_nested() -> None:
    logits, prev_logits, beta = torch.randn(2, 3, BATCH, 6, 4), torch.randn(3, BATCH, 4, 4), torch.rand(2)
    ours = torch.func.vmap(torch.func.vmap(guide, (0, 0, None)), (0, None, 0))(logits, prev_logits, beta)
    for i, j in itertools.product(range(2), range(3)):
        torch.testing.assert_close(ours[i, j], guide(logits[i, j], prev_logits[j], beta[i]))


@pytest.mark.parametrize("transpose", [False, True])
def test_prior_linear(transpose: bool) -> None:
    def function(x: Tensor, scale: Tensor) -> Tensor:
        return torch.ops.ssg._prior_linear(x, scale, SIZE, PREV_SIZE, "dse", "bilinear", False, transpose)

    tokens = 6 if transpose else 4
    for scale, in_dims in (((), (0, 0)), ((), (1, None)), ((BATCH,), (None, 0)), ((BATCH,), (2, None))):
        x, strength = mapped((BATCH, tokens, 4), in_dims[0]), mapped(scale, in_dims[1])
        ours = torch.func.vmap(function, in_dims)(x, strength)
        for i in range(COUNT):
            call = (t if d is None else t.select(d, i) for t, d in zip((x, strength), in_dims, strict=True))
            torch.testing.assert_close(ours[i], function(*call))


def test_errors_speak_of_one_call() -> None:
    logits, prev_logits = torch.randn(COUNT, BATCH, 6, 4), torch.randn(COUNT, BATCH + 1, 4, 4)
    with pytest.raises(
        (ValueError, RuntimeError), match="prev_logits must have the batch of logits, 2, got 3"
    ):
        torch.func.vmap(guide)(logits, prev_logits, torch.rand(COUNT))
    with pytest.raises(
        (ValueError, RuntimeError), match=r"beta must be .* shape \(\) or \(2,\), got shape \(5,\)"
    ):
        torch.func.vmap(guide)(logits, prev_logits[:, :BATCH], torch.rand(COUNT, 5))


def test_out_is_refused() -> None:
    logits, prev_logits = torch.randn(COUNT, BATCH, 6, 4), torch.randn(COUNT, BATCH, 4, 4)

    def in_place(logits: Tensor, prev_logits: Tensor) -> Tensor:
        return ssg_kernels.guided_logits(logits, prev_logits, SIZE, PREV_SIZE, 0.5, out=logits)

    with pytest.raises(RuntimeError, match=r"out=\.\.\. arguments don't support vmap"):
        torch.func.vmap(in_place)(logits, prev_logits)
