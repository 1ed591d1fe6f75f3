"""Mixed derivatives of every order, with forward and reverse mode nested in every way.

The operators are affine in each argument. So a mixed derivative along given tangents is a mixed difference of values,
which needs no derivative at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import jacfwd, jacrev, jvp, linearize, vjp, vmap

import ssg_kernels
from ssg_kernels import reference

SIZE, PREV_SIZE = (3, 2), (2, 2)
OPTIONS = ("dse", "bicubic", True)
Function = Callable[..., Tensor]
# Differentiates a function of one argument at `x` along the tangent `t`.
Mode = Callable[[Function, Tensor, Tensor], Tensor]


def forward(function: Function, x: Tensor, t: Tensor) -> Tensor:
    return jvp(function, (x,), (t,))[1]


def reverse(function: Function, x: Tensor, t: Tensor) -> Tensor:
    """The derivative of the weighted sum of the values."""
    value, pullback = vjp(function, x)
    return (pullback(weights_of(value))[0] * t).sum()


def weights_of(value: Tensor) -> Tensor:
    if value.ndim == 0:
        return torch.ones_like(value)
    return torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)


def plain_forward(function: Function, x: Tensor, t: Tensor) -> Tensor:
    with forward_ad.dual_level():
        value, tangent = forward_ad.unpack_dual(function(forward_ad.make_dual(x, t)))
    return torch.zeros_like(value) if tangent is None else tangent


def plain_reverse(function: Function, x: Tensor, t: Tensor) -> Tensor:
    leaf = x if x.requires_grad else x.detach().requires_grad_()
    value = function(leaf)
    if not value.requires_grad:
        return torch.zeros((), dtype=value.dtype)
    options = {"create_graph": True, "materialize_grads": True}
    (grad,) = torch.autograd.grad(value, leaf, weights_of(value), **options)
    return (grad * t).sum()


def guide(logits: Tensor, prev_logits: Tensor, beta: Tensor) -> Tensor:
    return ssg_kernels.guided_logits(logits, prev_logits, SIZE, PREV_SIZE, beta, *OPTIONS)


def guide_cfg(logits: Tensor, prev_logits: Tensor, *strengths: Tensor) -> Tensor:
    return ssg_kernels.guided_logits_cfg(logits, prev_logits, SIZE, PREV_SIZE, *strengths, *OPTIONS)


def prior(x: Tensor, scale: Tensor) -> Tensor:
    return torch.ops.ssg._prior_linear(x, scale, SIZE, PREV_SIZE, *OPTIONS, False)


def transposed_prior(x: Tensor, scale: Tensor) -> Tensor:
    return torch.ops.ssg._prior_linear(x, scale, SIZE, PREV_SIZE, *OPTIONS, True)


def contract(logits: Tensor, prev_logits: Tensor, beta: Tensor) -> Tensor:
    return reference.guided_logits(logits, prev_logits, SIZE, PREV_SIZE, beta, *OPTIONS)


def contract_cfg(logits: Tensor, prev_logits: Tensor, *strengths: Tensor) -> Tensor:
    return reference.guided_logits_cfg(logits, prev_logits, SIZE, PREV_SIZE, *strengths, *OPTIONS)


# function -> the shapes of its arguments
SHAPES = {
    guide: ((2, 6, 2), (2, 4, 2), (2,)),
    guide_cfg: ((4, 6, 2), (4, 4, 2), (2,), (), (2,)),
    prior: ((2, 4, 2), (2,)),
    transposed_prior: ((2, 6, 2), ()),
    contract: ((2, 6, 2), (2, 4, 2), ()),
    contract_cfg: ((4, 6, 2), (4, 4, 2), (), (2,), ()),
}
OPERATORS = (guide, guide_cfg, prior, transposed_prior)
by_name = {"ids": lambda value: getattr(value, "__name__", None)}


def normal(function: Function) -> tuple[list[Tensor], list[Tensor]]:
    """Arguments of the function, and a tangent of each."""
    arguments, tangents = (
        [torch.randn(shape, dtype=torch.float64) for shape in SHAPES[function]] for _ in range(2)
    )
    return arguments, tangents


def with_argument(function: Function, arguments: Sequence[Tensor], i: int) -> Function:
    return lambda x: function(*arguments[:i], x, *arguments[i + 1 :])


def nested(
    function: Function,
    arguments: Sequence[Tensor],
    tangents: Sequence[Tensor],
    order: Sequence[int],
    modes: Sequence[Mode],
) -> Tensor:
    """Differentiates by the arguments `order`, each in its mode, the first one innermost."""
    for i, mode in zip(order, modes, strict=True):

        def derivative(*x: Tensor, inner: Function = function, i: int = i, mode: Mode = mode) -> Tensor:
            return mode(with_argument(inner, x, i), x[i], tangents[i])

        function = derivative
    return function(*arguments)


def mixed_difference(
    function: Function, arguments: Sequence[Tensor], tangents: Sequence[Tensor], order: Sequence[int]
) -> Tensor:
    if len(set(order)) < len(order):
        return torch.zeros_like(function(*arguments))
    total = torch.zeros((), dtype=torch.float64)
    for moved in itertools.product((False, True), repeat=len(order)):
        steps = {i for i, m in zip(order, moved, strict=True) if m}
        corner = (
            x + t if i in steps else x for i, (x, t) in enumerate(zip(arguments, tangents, strict=True))
        )
        total = total + (-1) ** (len(order) - len(steps)) * function(*corner)
    return total


def assert_close(ours: Tensor, expected: Tensor) -> None:
    """`ours` is a weighted sum where one of its modes was reverse."""
    if ours.shape != expected.shape:
        expected = (expected * weights_of(expected)).sum()
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("modes", itertools.product((forward, reverse), repeat=2), **by_name)
@pytest.mark.parametrize("function", SHAPES, **by_name)
def test_pairs(function: Function, modes: tuple[Mode, ...]) -> None:
    arguments, tangents = normal(function)
    for order in itertools.product(range(len(arguments)), repeat=2):
        expected = mixed_difference(function, arguments, tangents, order)
        assert_close(nested(function, arguments, tangents, order, modes), expected)


@pytest.mark.parametrize("modes", itertools.product((forward, reverse), repeat=3), **by_name)
@pytest.mark.parametrize("function", [guide, guide_cfg], **by_name)
def test_triples(function: Function, modes: tuple[Mode, ...]) -> None:
    arguments, tangents = normal(function)
    for order in itertools.combinations(range(len(arguments)), 3):
        expected = mixed_difference(function, arguments, tangents, order)
        assert_close(nested(function, arguments, tangents, order, modes), expected)
        assert_close(nested(function, arguments, tangents, order[::-1], modes), expected)


@pytest.mark.parametrize(
    "modes",
    [(plain_reverse, plain_reverse), (plain_reverse, plain_forward), (plain_forward, plain_reverse)],
    **by_name,
)
@pytest.mark.parametrize("function", OPERATORS, **by_name)
def test_pairs_without_torch_func(function: Function, modes: tuple[Mode, ...]) -> None:
    arguments, tangents = normal(function)
    for order in itertools.permutations(range(len(arguments)), 2):
        expected = mixed_difference(function, arguments, tangents, order)
        assert_close(nested(function, arguments, tangents, order, modes), expected)


@pytest.mark.parametrize("modes", itertools.product((forward, reverse), repeat=2), **by_name)
@pytest.mark.parametrize("function", [guide, guide_cfg], **by_name)
def test_masked_logits(function: Function, modes: tuple[Mode, ...]) -> None:
    """Column 0 is masked in every scale, column 1 at one token: they add nothing to any derivative."""
    arguments, tangents = normal(function)
    masked = [x.clone() for x in arguments]
    masked[0][..., 0] = masked[1][..., 0] = masked[0][:2, 3, 1] = -math.inf
    hidden = function(*masked) == -math.inf
    for order in itertools.permutations(range(len(arguments)), 2):
        expected = mixed_difference(function, arguments, tangents, order).masked_fill(hidden, 0)
        assert_close(nested(function, masked, tangents, order, modes), expected)


@pytest.mark.parametrize("function", [guide, guide_cfg], **by_name)
def test_jacobians_of_jacobians(function: Function) -> None:
    """vmap over both levels of (prev_logits, beta)."""
    arguments, _ = normal(function)
    results = [
        outer(inner(function, 2), 1)(*arguments) for inner in (jacfwd, jacrev) for outer in (jacfwd, jacrev)
    ]
    assert results[0].abs().max() > 0
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])
    basis = torch.eye(arguments[2].numel(), dtype=torch.float64)
    along = vmap(lambda t: forward(with_argument(jacrev(function, 1), arguments, 2), arguments[2], t))(basis)
    torch.testing.assert_close(along.movedim(0, -1), jacfwd(jacrev(function, 1), 2)(*arguments))


@pytest.mark.parametrize("function", [*OPERATORS, contract, contract_cfg], **by_name)
def test_linearize(function: Function) -> None:
    arguments, tangents = normal(function)
    for i in range(len(arguments)):
        value, derivative = linearize(with_argument(function, arguments, i), arguments[i])
        torch.testing.assert_close(value, function(*arguments))
        assert_close(derivative(tangents[i]), mixed_difference(function, arguments, tangents, (i,)))
    value, derivative = linearize(function, *arguments)
    total = sum(mixed_difference(function, arguments, tangents, (i,)) for i in range(len(arguments)))
    assert_close(derivative(*tangents), total)


@pytest.mark.parametrize("modes", itertools.product((forward, reverse), repeat=2), **by_name)
def test_compiled(modes: tuple[Mode, ...]) -> None:
    """The captured graph opens the levels of forward mode itself, past torch.autograd.forward_ad."""
    torch._dynamo.reset()
    arguments, tangents = normal(guide)

    def derivatives(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(
            nested(guide, arguments, tangents, order, modes[: len(order)]) for order in ((2,), (2, 1))
        )

    for backend in ("eager", "aot_eager"):
        first, second = torch.compile(derivatives, backend=backend, fullgraph=True)(*arguments)
        assert_close(first, mixed_difference(guide, arguments, tangents, (2,)))
        assert_close(second, mixed_difference(guide, arguments, tangents, (2, 1)))


def test_sampling_refuses_tangents_in_compiled_code() -> None:
    logits, uniform = torch.randn(1, 3, 4), torch.rand(1, 3)

    def tangent(logits: Tensor) -> Tensor:
        return jvp(lambda x: ssg_kernels.sample(x, uniform), (logits,), (logits,))[1]

    with pytest.raises(Exception, match="sample is not differentiable"):
        torch.compile(tangent, backend="eager")(logits)
