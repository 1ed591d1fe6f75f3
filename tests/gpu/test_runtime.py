"""What only matters on a GPU: streams, graphs, compilers, the allocator, and that no call waits for the device."""

from __future__ import annotations

import warnings

import pytest
import torch
from support.gpu_cases import assert_right, random_logits, run
from support.strategies import Call
from torch import Tensor

import ssg_kernels
from bench.schedules import VAR_256
from ssg_kernels import SSG

STEPS = [((16, 16), (13, 13)), ((32, 32), (24, 24)), ((64, 64), (48, 48)), ((2, 2), (1, 1))]


@pytest.mark.parametrize(("size", "prev_size"), STEPS)
@pytest.mark.parametrize("is_cfg", [False, True])
def test_a_graph_follows_its_strengths(
    backend: str, cuda: torch.device, size: tuple[int, int], prev_size: tuple[int, int], is_cfg: bool
) -> None:
    call = Call(size, prev_size, 2, 300, is_cfg=is_cfg)
    logits, prev_logits = random_logits(call, cuda)
    strengths = [torch.tensor(value, device=cuda) for value in (0.5, 1.5, 1.25)[: 3 if is_cfg else 1]]
    run(call, logits, prev_logits, *strengths)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run(call, logits, prev_logits, *strengths)
    for beta in (0.5, -0.25, 2.0):
        strengths[0].fill_(beta)
        logits.normal_(0, 4)
        graph.replay()
        assert_right(call, out, logits, prev_logits, tuple(strengths))


def test_the_first_call_of_a_step_can_be_captured(backend: str, cuda: torch.device) -> None:
    call = Call((19, 23), (11, 17), 1, 101)  # a step that no other test takes
    logits, prev_logits = random_logits(call, cuda)
    graph = torch.cuda.CUDAGraph()
    if backend == "triton":
        with pytest.raises(RuntimeError, match="captur"), torch.cuda.graph(graph):
            run(call, logits, prev_logits, 0.5)
        return
    with torch.cuda.graph(graph):
        out = run(call, logits, prev_logits, 0.5)
    graph.replay()
    assert_right(call, out, logits, prev_logits, (0.5,))
    assert_right(call, run(call, logits, prev_logits, 0.5), logits, prev_logits, (0.5,))


@pytest.mark.parametrize(("size", "prev_size"), STEPS)
def test_the_current_stream_is_used(
    backend: str, cuda: torch.device, size: tuple[int, int], prev_size: tuple[int, int]
) -> None:
    call = Call(size, prev_size, 2, 256)
    logits, prev_logits = random_logits(call, cuda)
    values = logits.clone()
    stream = torch.cuda.Stream(cuda)
    stream.wait_stream(torch.cuda.current_stream(cuda))
    logits.fill_(torch.nan)
    torch.cuda.synchronize(cuda)
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # about 10 ms, during which a call on another stream would read NaN
        logits.copy_(values)
        out = run(call, logits, prev_logits, 0.5)
    torch.cuda.current_stream(cuda).wait_stream(stream)
    assert_right(call, out, values, prev_logits, (0.5,))


def test_nothing_waits_for_the_device(backend: str, cuda: torch.device) -> None:
    for is_cfg in (False, True):
        call = Call((16, 16), (13, 13), 2, 256, is_cfg=is_cfg, kinds=("scalar", "vector", "float"))
        logits, prev_logits = random_logits(call, cuda)
        strengths = [s.to(cuda) if isinstance(s, Tensor) else s for s in call.strengths()]
        run(call, logits, prev_logits, *strengths)
        torch.cuda.set_sync_debug_mode("error")
        try:
            run(call, logits, prev_logits, *strengths)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_nothing_but_the_result_is_allocated(backend: str, cuda: torch.device) -> None:
    for size, prev_size in STEPS:
        call = Call(size, prev_size, 2, 1024)
        logits, prev_logits = random_logits(call, cuda)
        for _ in range(2):
            torch.cuda.synchronize(cuda)
            torch.cuda.reset_peak_memory_stats(cuda)
            before = torch.cuda.memory_allocated(cuda)
            out = run(call, logits, prev_logits, 0.5)
            peak = torch.cuda.max_memory_allocated(cuda) - before
        assert peak <= out.nbytes + 512
        del out


def test_no_more_than_two_compilations(backend: str, cuda: torch.device) -> None:
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("inductor")

    def step(x: Tensor, prev: Tensor, n: int, prev_n: int, beta: Tensor) -> Tensor:
        return torch.ops.ssg.guided_logits(x * 2, prev, (n, n), (prev_n, prev_n), beta) + 1

    compiled = torch.compile(step, backend=counter, fullgraph=True)
    logits = [torch.randn(2, n * n, 64, device=cuda) for n in VAR_256]
    for k in range(1, len(VAR_256)):
        beta = torch.tensor(0.1 * k, device=cuda)
        arguments = (logits[k], logits[k - 1], VAR_256[k], VAR_256[k - 1], beta)
        torch.testing.assert_close(compiled(*arguments), step(*arguments))
    assert counter.frame_count <= 2
    torch.compiler.reset()


def test_ssg_is_the_operators(backend: str, cuda: torch.device) -> None:
    ssg = SSG(VAR_256, 0.8)
    logits = [torch.randn(2, n * n, 64, device=cuda) for n in VAR_256]
    for k, x in enumerate(logits):
        guided = ssg(x)
        if k:
            call = Call((VAR_256[k],) * 2, (VAR_256[k - 1],) * 2, 2, 64)
            assert_right(call, guided, x, logits[k - 1], (0.8 * (1 - k / len(VAR_256)),))


def test_gradients(backend: str, device: torch.device) -> None:
    for is_cfg in (False, True):
        call = Call((6, 5), (4, 3), 2, 33, is_cfg=is_cfg)
        inputs = [x.requires_grad_() for x in random_logits(call, device)]
        inputs += [
            torch.tensor(v, device=device, requires_grad=True) for v in (0.5, 1.5, 1.25)[: 3 if is_cfg else 1]
        ]
        exact = [x.detach().double().requires_grad_() for x in inputs]
        weights = torch.randn(2, 30, 33, device=device)
        (run(call, *inputs) * weights).sum().backward()
        reference = ssg_kernels.reference
        function = reference.guided_logits_cfg if is_cfg else reference.guided_logits
        result = function(*exact[:2], call.size, call.prev_size, *exact[2:], *call.options)
        (result * weights).sum().backward()
        for x, y in zip(inputs, exact, strict=True):
            scale = y.grad.abs().max().item()
            torch.testing.assert_close(x.grad.double(), y.grad, rtol=0, atol=2e-5 * scale)


def test_opcheck(backend: str, device: torch.device) -> None:
    op = torch.ops.ssg.guided_logits
    for dtype in (torch.float32, torch.bfloat16):
        call = Call((6, 5), (4, 3), 2, 33, dtype)
        logits, prev_logits = random_logits(call, device)
        beta = torch.tensor(0.5, device=device)
        torch.library.opcheck(op.default, (logits, prev_logits, call.size, call.prev_size, beta))


def test_a_tensor_on_another_device(backend: str, cuda: torch.device) -> None:
    call = Call((6, 5), (4, 3), 2, 33)
    logits, prev_logits = random_logits(call, cuda)
    with pytest.raises(
        (ValueError, RuntimeError), match="prev_logits must be on the device of logits, cuda:0, got cpu"
    ):
        run(call, logits, prev_logits.cpu(), 0.5)
    with pytest.raises(
        (ValueError, RuntimeError), match="beta must be on the device of logits, cuda:0, got cpu"
    ):
        run(call, logits, prev_logits, torch.tensor(0.5))


def test_without_a_choice_no_one_warns(cuda: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSG_KERNELS_BACKEND", raising=False)
    call = Call((6, 5), (4, 3), 2, 33)
    logits, prev_logits = random_logits(call, cuda)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_right(call, run(call, logits, prev_logits, 0.5), logits, prev_logits, (0.5,))
