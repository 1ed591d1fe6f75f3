"""torch.compile: a model's scales take few compilations, and results are the same as without it, also in place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import ssg_kernels

VAR = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
VOCABULARY = 16


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function: Callable, backend: str) -> tuple[Callable, CompileCounterWithBackend]:
    counter = CompileCounterWithBackend(backend)
    return torch.compile(function, backend=counter, fullgraph=True, dynamic=None), counter


def op(logits: Tensor, prev_logits: Tensor, n: int, prev_n: int, beta: Tensor) -> Tensor:
    return torch.ops.ssg.guided_logits(logits, prev_logits, (n, n), (prev_n, prev_n), beta)


def function(logits: Tensor, prev_logits: Tensor, n: int, prev_n: int, beta: Tensor | float) -> Tensor:
    return ssg_kernels.guided_logits(logits, prev_logits, (n, n), (prev_n, prev_n), beta)


def function_cfg(logits: Tensor, prev_logits: Tensor, n: int, prev_n: int, beta: Tensor | float) -> Tensor:
    return ssg_kernels.guided_logits_cfg(
        logits, prev_logits, (n, n), (prev_n, prev_n), beta, 1.5, 2 * beta, "dse", "bicubic", True
    )


def in_place(logits: Tensor, prev_logits: Tensor, n: int, prev_n: int, beta: Tensor) -> Tensor:
    return ssg_kernels.guided_logits(logits, prev_logits, (n, n), (prev_n, prev_n), beta, out=logits)


def in_place_cfg(logits: Tensor, prev_logits: Tensor, n: int, prev_n: int, beta: Tensor) -> Tensor:
    out = logits[: logits.shape[0] // 2]
    return ssg_kernels.guided_logits_cfg(
        logits, prev_logits, (n, n), (prev_n, prev_n), beta, beta, 1.5, out=out
    )


@pytest.mark.parametrize(
    ("step", "beta_type", "backend", "mode"),
    [
        (op, torch.tensor, "inductor", torch.inference_mode),
        (op, torch.tensor, "aot_eager", torch.enable_grad),
        (function, torch.tensor, "aot_eager", torch.no_grad),
        (function, float, "aot_eager", torch.inference_mode),
        (function_cfg, torch.tensor, "inductor", torch.no_grad),
        (function_cfg, float, "aot_eager", torch.no_grad),
        (in_place, torch.tensor, "inductor", torch.inference_mode),
        (in_place, float, "aot_eager", torch.no_grad),
        (in_place_cfg, torch.tensor, "aot_eager", torch.inference_mode),
    ],
)
def test_two_compilations_over_all_scales(step: Callable, beta_type: type, backend: str, mode: type) -> None:
    """The guided scales of a sampler, with a beta that changes from scale to scale."""
    ours, counter = compiled(step, backend)
    with mode():
        for k, (prev_n, n) in enumerate(itertools.pairwise(VAR)):
            logits, prev_logits = torch.randn(2, n * n, VOCABULARY), torch.randn(2, prev_n**2, VOCABULARY)
            beta, copy = beta_type(0.9 - 0.1 * k), logits.clone()
            result = ours(logits, prev_logits, n, prev_n, beta)
            torch.testing.assert_close(result, step(copy, prev_logits, n, prev_n, beta))
            torch.testing.assert_close(logits, copy)
    assert counter.frame_count <= 2


def test_two_compilations_inside_a_sampler() -> None:
    """The compiled function also has the first scale, which is not guided, and operations of the sampler around it."""

    def guide(logits: Tensor, prev_logits: Tensor | None, n: int, prev_n: int, beta: Tensor) -> Tensor:
        logits = logits * 1.25
        guided = logits if prev_logits is None else function(logits, prev_logits, n, prev_n, beta)
        return guided.softmax(-1)

    ours, counter = compiled(guide, "aot_eager")
    with torch.no_grad():
        for k, (prev_n, n) in enumerate(itertools.pairwise((0, *VAR))):
            logits = torch.randn(2, n * n, VOCABULARY)
            prev_logits = torch.randn(2, prev_n**2, VOCABULARY) if k else None
            args = (logits, prev_logits, n, prev_n, torch.tensor(1 - 0.1 * k))
            torch.testing.assert_close(ours(*args), guide(*args))
    assert counter.frame_count <= 3  # one more for the first scale, whose graph has no guidance


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("step", [in_place, in_place_cfg])
def test_in_place(step: Callable, backend: str) -> None:
    """The compiled call writes into the argument itself, and views of the argument see that."""

    def guide(logits: Tensor, prev_logits: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        before = logits * 1
        view = logits[:, 1:, ::2]
        guided = step(logits, prev_logits, 3, 2, beta)
        return before, view + guided.sum()

    ours, counter = compiled(guide, backend)
    logits, prev_logits, beta = torch.randn(2, 9, 8), torch.randn(2, 4, 8), torch.tensor(0.5)
    copy, original = logits.clone(), logits.clone()
    before, after = ours(logits, prev_logits, beta)
    expected_before, expected_after = guide(copy, prev_logits, beta)
    torch.testing.assert_close(before, original)
    torch.testing.assert_close(expected_before, original)
    torch.testing.assert_close(after, expected_after)
    torch.testing.assert_close(logits, copy)
    assert not torch.equal(logits, original)
    assert counter.frame_count == 1


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_gradients(backend: str) -> None:
    """Reverse mode through a compiled call, for both logits and every strength, with masked tokens."""
    ours, _ = compiled(lambda *x: ssg_kernels.guided_logits_cfg(*x[:2], (3, 4), (2, 3), *x[2:]), backend)
    inputs = [torch.randn(4, 12, 8), torch.randn(4, 6, 8), torch.rand(2), torch.rand(()), torch.rand(2)]
    inputs[0][..., 3] = -torch.inf
    for x in inputs:
        x.requires_grad_()
    results = [
        f(*inputs) for f in (ours, lambda *x: ssg_kernels.guided_logits_cfg(*x[:2], (3, 4), (2, 3), *x[2:]))
    ]
    torch.testing.assert_close(*results)
    seed = torch.randn_like(results[0])
    for a, b in zip(*(torch.autograd.grad(result, inputs, seed) for result in results), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_mixed_strengths() -> None:
    ours, counter = compiled(ssg_kernels.guided_logits_cfg, "aot_eager")
    logits, prev_logits = torch.randn(4, 12, 8), torch.randn(4, 6, 8)
    for strengths in ((0.5, torch.tensor(1.5), np.float32(0.25)), (torch.rand(2), 1, np.float64(2.0))):
        args = (logits, prev_logits, (3, 4), (2, 3), *strengths)
        torch.testing.assert_close(ours(*args), ssg_kernels.guided_logits_cfg(*args))
    assert counter.frame_count <= 2


def test_strided_logits() -> None:
    """With slices of one buffer, the compiled call reads by the same strides as the eager one."""
    ours, _ = compiled(
        lambda x, beta: ssg_kernels.guided_logits(x[:, 4:13], x[:, :4], (3, 3), (2, 2), beta), "inductor"
    )
    buffer, beta = torch.randn(2, 13, 8), torch.tensor(0.5)
    expected = ssg_kernels.guided_logits(buffer[:, 4:13], buffer[:, :4], (3, 3), (2, 2), beta)
    torch.testing.assert_close(ours(buffer, beta), expected)


def test_errors_while_compiling() -> None:
    ours, _ = compiled(op, "aot_eager")
    with pytest.raises(Exception, match=r"logits must have L = 3\*3 = 9 tokens for size \(3, 3\), got 8"):
        ours(torch.randn(2, 8, 4), torch.randn(2, 4, 4), 3, 2, torch.tensor(0.5))


def test_vmap_inside() -> None:
    def guide(logits: Tensor, prev_logits: Tensor, beta: Tensor) -> Tensor:
        return torch.func.vmap(lambda *x: op(*x[:2], 3, 2, x[2]), (1, 1, None), 1)(logits, prev_logits, beta)

    ours, _ = compiled(guide, "aot_eager")
    inputs = (torch.randn(2, 3, 9, 8), torch.randn(2, 3, 4, 8), torch.tensor(0.5))
    torch.testing.assert_close(ours(*inputs), guide(*inputs))


def test_compiled_autograd() -> None:
    """Compiled autograd captures the backward pass of an eager call."""
    inputs = (torch.randn(2, 12, 8), torch.randn(2, 6, 8), torch.rand(2))
    for x in inputs:
        x.requires_grad_()

    def gradients() -> tuple[Tensor, ...]:
        result = ssg_kernels.guided_logits(*inputs[:2], (3, 4), (2, 3), inputs[2])
        return torch.autograd.grad(result.square().sum(), inputs)

    expected = gradients()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        compiled_gradients = gradients()
    torch.testing.assert_close(compiled_gradients, expected)
