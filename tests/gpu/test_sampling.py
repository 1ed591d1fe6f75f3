"""`sample` on a GPU: it draws the reference's tokens, or -1 if a row has none; a graph follows its uniforms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from support.draws import INF, Draw, draws, expected_tokens
from support.gpu_cases import to_device
from torch import Tensor

import ssg_kernels


def sampled(call: Draw, logits: Tensor, uniform: Tensor) -> Tensor:
    return torch.ops.ssg._sample_tempered.float(logits, uniform, call.scale, call.top_k, call.top_p)


def check(call: Draw, device: torch.device) -> None:
    logits, uniform = call.logits(), call.uniform()
    tokens = sampled(call, to_device(logits, device), uniform.to(device))
    assert torch.equal(tokens.cpu(), expected_tokens(call, logits, uniform))


# Triton compiles a kernel for nearly every example, which takes it seconds.
EXAMPLES = {"triton": 12}


def test_any_call(backend: str, device: torch.device) -> None:
    @settings(max_examples=EXAMPLES.get(backend, 100))
    @given(call=draws())
    def check_it(call: Draw) -> None:
        check(call, device)

    check_it()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("vocabulary", "rows", "top_k", "top_p"),
    [(4096, 256, 900, 0.96), (2, 4096, 2, 0.97), (16384, 8, 600, 0.0), (262144, 2, 900, 0.95)],
)
def test_samplers_rows(
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    vocabulary: int,
    rows: int,
    top_k: int,
    top_p: float,
) -> None:
    check(Draw(vocabulary, 2, rows, "normal", 0.0, dtype, top_k, top_p), device)


def test_a_row_without_an_answer(backend: str, cuda: torch.device) -> None:
    logits, uniform = torch.randn(2, 5, 70, device=cuda), torch.rand(2, 5, device=cuda)
    expected = ssg_kernels.sample(logits, uniform, 9, 0.9)
    logits[0, 1], logits[0, 2, 69], logits[1, 3, 5] = -INF, torch.nan, INF
    expected[0, 1] = expected[0, 2] = expected[1, 3] = -1
    assert torch.equal(ssg_kernels.sample(logits, uniform, 9, 0.9), expected)


def test_a_graph_follows_its_uniforms(backend: str, cuda: torch.device) -> None:
    logits, uniform = torch.randn(2, 50, 300, device=cuda), torch.rand(2, 50, device=cuda)
    ssg_kernels.sample(logits, uniform, 100, 0.9)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ssg_kernels.sample(logits, uniform, 100, 0.9)
    for _ in range(3):
        uniform.uniform_()
        graph.replay()
        assert torch.equal(out, ssg_kernels.sample(logits, uniform, 100, 0.9))
