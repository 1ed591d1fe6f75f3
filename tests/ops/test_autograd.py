"""Derivatives, reverse and forward, of every differentiable argument; and what is refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import ssg_kernels
from ssg_kernels import reference
from ssg_kernels.generation import merge_cfg

on_each_backend = pytest.mark.usefixtures("backend")

SIZE, PREV_SIZE = (3, 4), (2, 3)
OPTIONS = [
    ("dse", "bilinear", False),
    ("dse", "bicubic", True),
    ("dse_zero_pad", "area", True),
    ("spatial", "nearest", False),
]
Function = Callable[..., Tensor]


def make(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def logits_of(batch: int, vocabulary: int = 2, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return make(batch, 12, vocabulary, dtype=dtype), make(batch, 6, vocabulary, dtype=dtype)


def guide(*options: object) -> Function:
    return lambda logits, prev_logits, *strengths: ssg_kernels.guided_logits(
        logits, prev_logits, SIZE, PREV_SIZE, *strengths, *options
    )


def guide_cfg(*options: object) -> Function:
    return lambda logits, prev_logits, *strengths: ssg_kernels.guided_logits_cfg(
        logits, prev_logits, SIZE, PREV_SIZE, *strengths, *options
    )


@on_each_backend
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", [(), (2,)])
def test_gradients(shape: tuple[int, ...], options: tuple) -> None:
    inputs = (*logits_of(2), make(*shape))
    assert gradcheck(guide(*options), inputs, check_forward_ad=True, check_batched_grad=True)


@on_each_backend
@pytest.mark.parametrize("options", OPTIONS[1:3])
@pytest.mark.parametrize("shapes", [((), (2,), ()), ((2,), (), (2,))])
def test_gradients_cfg(shapes: tuple, options: tuple) -> None:
    inputs = (*logits_of(4), *(make(*shape) for shape in shapes))
    assert gradcheck(guide_cfg(*options), inputs, check_forward_ad=True, check_batched_grad=True)


def test_gradients_of_float_strengths() -> None:
    inputs = logits_of(2)
    assert gradcheck(lambda *x: guide()(*x, 0.7), inputs, check_forward_ad=True, check_batched_grad=True)
    inputs = (*logits_of(4), make(2))
    for mixture in (lambda x: (x, 1.5, 0.5), lambda x: (0.7, x, 0.5), lambda x: (0.7, 1.5, x)):
        assert gradcheck(
            lambda a, b, x, mixture=mixture: guide_cfg()(a, b, *mixture(x)), inputs, check_forward_ad=True
        )


@on_each_backend
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_prior_linear_is_the_prior(options: tuple, transpose: bool) -> None:
    """scale * P x and scale * P^T x, with P from the reference: the prior of the unit vectors."""
    matrix = reference.dse_prior(torch.eye(6, dtype=torch.float64)[None], SIZE, PREV_SIZE, *options)[0]
    matrix = matrix.mT if transpose else matrix
    x = make(2, matrix.shape[1], 5).detach()
    for scale in (torch.tensor(0.5), torch.rand(2, dtype=torch.float64)):
        ours = torch.ops.ssg._prior_linear(x, scale, SIZE, PREV_SIZE, *options, transpose)
        torch.testing.assert_close(ours, scale.double().reshape(-1, 1, 1) * (matrix @ x))


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_derivatives_of_prior_linear(shape: tuple[int, ...], transpose: bool) -> None:
    def function(x: Tensor, scale: Tensor) -> Tensor:
        return torch.ops.ssg._prior_linear(x, scale, SIZE, PREV_SIZE, "dse", "bicubic", True, transpose)

    inputs = (make(2, 12 if transpose else 6, 1), make(*shape))
    assert gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, inputs, check_fwd_over_rev=True)


def test_second_derivatives() -> None:
    assert gradgradcheck(guide(), (*logits_of(2, 1), make(2)), check_fwd_over_rev=True, fast_mode=True)
    strengths = (make(), make(2), make())
    assert gradgradcheck(
        guide_cfg("dse", "bilinear", True),
        (*logits_of(4, 1), *strengths),
        check_fwd_over_rev=True,
        fast_mode=True,
    )


@on_each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_have_one_rounding(dtype: torch.dtype) -> None:
    """The gradients of the half types are those of the float64 reference, rounded once."""
    for function, contract, batch, count in (
        (ssg_kernels.guided_logits, reference.guided_logits, 2, 1),
        (ssg_kernels.guided_logits_cfg, reference.guided_logits_cfg, 4, 3),
    ):
        logits, prev_logits = logits_of(batch, 8, dtype)
        strengths = [torch.rand(2, requires_grad=True) for _ in range(count)]
        inputs = (logits, prev_logits, *strengths)
        result = function(logits, prev_logits, SIZE, PREV_SIZE, *strengths)
        grad = torch.randn_like(result)
        exact = tuple(x.detach().double().requires_grad_() for x in inputs)
        expected = torch.autograd.grad(
            contract(*exact[:2], SIZE, PREV_SIZE, *exact[2:]), exact, grad.double()
        )
        for x, ours, theirs in zip(inputs, torch.autograd.grad(result, inputs, grad), expected, strict=True):
            assert ours.dtype == x.dtype
            epsilon = torch.finfo(x.dtype).eps / 2 if x.dtype != torch.float32 else 0
            torch.testing.assert_close(
                ours.double(), theirs, rtol=epsilon, atol=4e-6 * theirs.abs().max().item()
            )


def test_gradients_only_where_asked() -> None:
    for wanted in range(3):
        inputs = [x.detach() for x in (*logits_of(2), make(2))]
        inputs[wanted].requires_grad_()
        result = guide()(*inputs)
        # The previous logits are kept alive for the gradient of beta only.
        shapes = [x.shape for x in result.grad_fn.saved_tensors if x is not None]
        assert (inputs[1].shape in shapes) == (wanted == 2)
        (grad,) = torch.autograd.grad(result.square().sum(), [inputs[wanted]])
        assert grad.shape == inputs[wanted].shape


def masked_inputs(is_cfg: bool) -> list[Tensor]:
    """Column 0 is masked in every scale, as samplers mask tokens; column 1 at one token of this scale."""
    logits, prev_logits = (x.detach() for x in logits_of(4 if is_cfg else 2, 3))
    logits[..., 0] = prev_logits[..., 0] = -math.inf
    logits[:2, 5, 1] = -math.inf
    strengths = [make(2) for _ in range(3 if is_cfg else 1)]
    return [logits.requires_grad_(), prev_logits.requires_grad_(), *strengths]


@on_each_backend
@pytest.mark.parametrize("is_cfg", [False, True])
def test_masked_logits_have_no_gradient(is_cfg: bool) -> None:
    function = guide_cfg() if is_cfg else guide()
    inputs = masked_inputs(is_cfg)
    result = function(*inputs)
    assert (result[..., 0] == -math.inf).all()
    assert (result[:, 5, 1] == -math.inf).all()
    grads = torch.autograd.grad(result, inputs, torch.ones_like(result))
    assert all(grad.isfinite().all() for grad in grads)
    assert (grads[0][:2, 5, 1] == 0).all()
    assert all((grad[..., 0] == 0).all() for grad in grads[:2])
    # The same as of the finite logits, with nothing flowing in at the masked ones.
    finite = [x.detach().masked_fill(x == -math.inf, 0).requires_grad_() for x in inputs]
    seed = torch.ones_like(result).masked_fill(result == -math.inf, 0)
    clean = torch.autograd.grad(function(*finite[:2], *finite[2:]), finite, seed)
    for ours, theirs in zip(grads[:2], clean[:2], strict=True):
        torch.testing.assert_close(ours, theirs)


@on_each_backend
@pytest.mark.parametrize("is_cfg", [False, True])
def test_masked_logits_have_no_tangent(is_cfg: bool) -> None:
    inputs = [x.detach() for x in masked_inputs(is_cfg)]
    tangents = tuple(torch.ones_like(x) for x in inputs)
    result, tangent = torch.func.jvp(guide_cfg() if is_cfg else guide(), tuple(inputs), tangents)
    assert (tangent[result == -math.inf] == 0).all()
    assert tangent.isfinite().all()
    assert (tangent[:, :, 2] != 0).all()


def test_masked_logits_of_the_first_scale_have_no_gradient() -> None:
    """The first scale is merged without an operator."""
    logits, cfg = logits_of(4, 3)[0].detach(), make(2)
    logits[..., 0] = logits[:2, 5, 1] = -math.inf
    merged = merge_cfg(logits, cfg)
    assert torch.equal(merged == -math.inf, logits[:2] == -math.inf)
    seed = torch.randn_like(merged)
    (ours,) = torch.autograd.grad(merged, cfg, seed)
    differences = (logits[:2] - logits[2:]).masked_fill(logits[:2] == -math.inf, 0)
    torch.testing.assert_close(ours, (seed * differences).sum(dim=(1, 2)))


def directional(function: Function, inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
    """The derivative along the tangents, by central differences of what is at most cubic."""
    steps = [
        function(*(x + s * t for x, t in zip(inputs, tangents, strict=True))) for s in (-2.0, -1.0, 1.0, 2.0)
    ]
    return (8 * (steps[2] - steps[1]) - (steps[3] - steps[0])) / 12


@on_each_backend
@pytest.mark.parametrize("batch", [2, 4])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_forward_mode(mode: type, batch: int) -> None:
    function = guide() if batch == 2 else guide_cfg()
    inputs = tuple(x.detach() for x in (*logits_of(batch), *[make(2)] * (1 if batch == 2 else 3)))
    tangents = tuple(torch.randn_like(x) for x in inputs)
    expected = directional(function, inputs, tangents)
    with mode():
        result, tangent = torch.func.jvp(function, inputs, tangents)
        torch.testing.assert_close(result, function(*inputs))
        torch.testing.assert_close(tangent, expected)
        with forward_ad.dual_level():
            dual = function(*map(forward_ad.make_dual, inputs, tangents))
            torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, expected)


@pytest.mark.parametrize("argument", range(5))
def test_forward_mode_of_one_argument(argument: int) -> None:
    """A tangent on any one argument, the others plain tensors: none is lost."""
    inputs = [x.detach() for x in (*logits_of(4), make(2), make(), make(2))]

    def function(x: Tensor) -> Tensor:
        return guide_cfg()(*inputs[:argument], x, *inputs[argument + 1 :])

    tangent = torch.randn_like(inputs[argument])
    _, ours = torch.func.jvp(function, (inputs[argument],), (tangent,))
    torch.testing.assert_close(ours, directional(function, (inputs[argument],), (tangent,)))
    assert ours.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_mode_in_other_dtypes(dtype: torch.dtype) -> None:
    logits, prev_logits = (x.detach() for x in logits_of(2, dtype=dtype))
    tangents = (torch.ones_like(logits), torch.ones_like(prev_logits))
    result, tangent = torch.func.jvp(lambda *x: guide()(*x, 0.5), (logits, prev_logits), tangents)
    assert result.dtype == tangent.dtype == dtype
    exact = guide()(*(t.double() for t in tangents), 0.5)
    torch.testing.assert_close(tangent.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5)


@on_each_backend
def test_func_transforms() -> None:
    logits, prev_logits, beta = (x.detach() for x in (*logits_of(2, 1), make(2)))

    def loss(logits: Tensor, prev_logits: Tensor, beta: Tensor) -> Tensor:
        return guide()(logits, prev_logits, beta).pow(3).sum()

    inputs = (logits, prev_logits, beta)
    leaves = tuple(x.clone().requires_grad_() for x in inputs)
    expected = torch.autograd.grad(loss(*leaves), leaves)
    for ours, theirs in zip(torch.func.grad(loss, (0, 1, 2))(*inputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    _, pullback = torch.func.vjp(loss, *inputs)
    for ours, theirs in zip(pullback(torch.tensor(1.0, dtype=torch.float64)), expected, strict=True):
        torch.testing.assert_close(ours, theirs)

    backward, forward = (
        torch.func.jacrev(guide(), (0, 1, 2))(*inputs),
        torch.func.jacfwd(guide(), (0, 1, 2))(*inputs),
    )
    for ours, theirs in zip(forward, backward, strict=True):
        torch.testing.assert_close(ours, theirs)

    hessians = [
        outer(inner(loss, 0), 0)(*inputs)
        for outer in (torch.func.jacrev, torch.func.jacfwd)
        for inner in (torch.func.jacrev, torch.func.jacfwd)
    ]
    exact = torch.autograd.functional.hessian(lambda x: loss(x, prev_logits, beta), logits)
    for hessian in hessians:
        torch.testing.assert_close(hessian, exact)


@on_each_backend
def test_per_sample_gradients() -> None:
    logits, prev_logits = (x.detach() for x in logits_of(3))

    def loss(logits: Tensor, prev_logits: Tensor) -> Tensor:
        return guide()(logits[None], prev_logits[None], 0.5).square().sum()

    ours = torch.func.vmap(torch.func.grad(loss))(logits, prev_logits)
    theirs = torch.stack([torch.func.grad(loss)(*pair) for pair in zip(logits, prev_logits, strict=True)])
    torch.testing.assert_close(ours, theirs)


def test_no_graph_without_need() -> None:
    logits, prev_logits = logits_of(2)
    assert guide()(logits, prev_logits, 0.5).requires_grad
    assert not guide()(logits.detach(), prev_logits.detach(), 0.5).requires_grad
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert not guide()(logits, prev_logits, 0.5).requires_grad


@pytest.mark.parametrize("halves", [1, 2])
def test_two_compilations_over_all_scales(halves: int) -> None:
    """The backward pass is traced with the forward pass: it must not depend on the sizes either."""
    torch._dynamo.reset()
    function = ssg_kernels.guided_logits if halves == 1 else ssg_kernels.guided_logits_cfg
    counter = CompileCounterWithBackend("aot_eager")

    def guide(n: int, prev_n: int, *inputs: Tensor) -> Tensor:
        return function(*inputs[:2], (n, n), (prev_n, prev_n), *inputs[2:])

    ours = torch.compile(guide, backend=counter, fullgraph=True)
    for batch, (prev_n, n) in enumerate(itertools.pairwise((1, 2, 3, 5)), 2):
        maps = (make(halves * batch, n * n, 4), make(halves * batch, prev_n * prev_n, 4))
        inputs = (*maps, *(make(batch) for _ in range(2 * halves - 1)))
        seed = torch.randn(batch, n * n, 4, dtype=torch.float64)
        grads, expected = (torch.autograd.grad(f(n, prev_n, *inputs), inputs, seed) for f in (ours, guide))
        for x, y in zip(grads, expected, strict=True):
            torch.testing.assert_close(x, y)
    assert counter.frame_count <= 2


@on_each_backend
@pytest.mark.parametrize("argument", ["logits", "prev_logits", "beta", "out"])
def test_out_refuses_derivatives(argument: str) -> None:
    logits, prev_logits = (x.detach() for x in logits_of(2))
    call = {"logits": logits, "prev_logits": prev_logits, "beta": torch.tensor(0.5, dtype=torch.float64)}
    call["out"] = torch.empty_like(logits)
    call[argument] = call[argument].requires_grad_()
    with pytest.raises(
        RuntimeError, match=r"out=\.\.\. arguments don't support automatic differentiation.*requires grad"
    ):
        ssg_kernels.guided_logits(size=SIZE, prev_size=PREV_SIZE, **call)
    with torch.no_grad():
        assert ssg_kernels.guided_logits(size=SIZE, prev_size=PREV_SIZE, **call) is call["out"]
        call[argument].requires_grad_(False)
        with forward_ad.dual_level():
            call[argument] = forward_ad.make_dual(call[argument], torch.ones_like(call[argument]))
            with pytest.raises(RuntimeError, match="forward-mode tangent"):
                ssg_kernels.guided_logits(size=SIZE, prev_size=PREV_SIZE, **call)


@on_each_backend
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_out_is_seen_by_autograd(mode: type) -> None:
    """What a backward pass has saved must not be overwritten unnoticed."""
    saved = torch.ones(2, 12, 2, requires_grad=True)
    out = saved.detach()
    product = (saved * saved).sum()
    with mode():
        ssg_kernels.guided_logits(torch.randn(2, 12, 2), torch.randn(2, 6, 2), SIZE, PREV_SIZE, 0.5, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
