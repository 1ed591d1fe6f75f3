"""The sampling kernels that nvcc made, executed: the tokens of the reference."""

from __future__ import annotations

import math
import re

import pytest
import torch
from support.draws import Draw, expected_tokens
from support.executed import require_nvcc
from support.strategies import DTYPES

from bench.ptx import cuda
from bench.ptx.faults import Fault
from ssg_kernels import reference

require_nvcc()


def check(call: Draw, uniform_dtype: torch.dtype = torch.float32) -> None:
    logits, uniform = call.logits(), call.uniform(uniform_dtype)
    tokens = cuda.sample(logits, uniform, call.scale, top_k=call.top_k, top_p=call.top_p)
    assert torch.equal(tokens, expected_tokens(call, logits, uniform))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [2, 7, 8, 9, 100, 700])
def test_every_kernel(vocabulary: int, dtype: torch.dtype) -> None:
    check(
        Draw(vocabulary, 2, 3, "normal", 0.0, dtype, (vocabulary + 1) // 2, 0.9, 1.25, vocabulary),
        torch.float64,
    )
    check(Draw(vocabulary, 1, 2, "few_values", 0.5, dtype, 0, 0.7, seed=vocabulary))


@pytest.mark.parametrize("kind", ["normal", "equal", "one_hot", "huge"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sampler_s_size(kind: str, dtype: torch.dtype) -> None:
    check(Draw(4096, 1, 1, kind, 0.25, dtype, 900, 0.96, seed=1))


@pytest.mark.parametrize("top_k", [0, 600])
def test_a_row_that_shared_memory_cannot_hold(top_k: int) -> None:
    check(Draw(20001, 1, 1, "normal", 0.0, torch.float32, top_k, 0.0, seed=5))


def test_bits() -> None:
    check(Draw(2, 1, 300, "normal", 0.0, torch.float32, 0, 0.9, 0.125))


@pytest.mark.parametrize("vocabulary", [7, 300])
def test_rows_without_a_finite_largest_logit_give_minus_one(vocabulary: int) -> None:
    logits = Draw(vocabulary, 1, 4).logits()
    logits[0, 1, 3] = math.nan
    logits[0, 2, 5] = math.inf
    logits[0, 3] = -math.inf
    tokens = cuda.sample(logits, torch.full((1, 4), 0.5), 1.0, top_k=2, top_p=0.9)
    assert tokens[0, 1:].tolist() == [-1, -1, -1]
    assert tokens[0, 0] == reference.sample(logits[:, :1], torch.full((1, 1), 0.5), 2, 0.9)[0, 0]


def test_strided_rows_and_a_scale_per_sample() -> None:
    call = Draw(30, 3, 4, top_k=9, top_p=0.9)
    logits, uniform = call.logits(), call.uniform()
    wide = torch.full((4, 3, 64), math.nan)
    wide[..., 5:35] = logits.transpose(0, 1)
    scale, top_p = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.9, 0.0, 0.5])
    tokens = cuda.sample(
        wide[..., 5:35].transpose(0, 1), uniform.t().contiguous().t(), scale, top_k=9, top_p=top_p
    )
    assert torch.equal(tokens, reference.sample_tempered(logits, uniform, scale, 9, top_p))


CHANGES = {
    "a barrier": (r"bar\.sync\s+0;", ""),
    "the polynomial of the weight": (r"mad\.hi\.u32", "mad.lo.u32"),
    "a sum of weights": (r"@inside red\.shared\.add\.u32 \[%r\d+\+\d+\], second;", ""),
    "the tokens that top-k lists": (r"@stays st\.shared\.f32", "st.shared.f32"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_kernel_is_caught(name: str) -> None:
    pattern, by = CHANGES[name]

    def change(text: str) -> str:
        changed, count = re.subn(pattern, by, text)
        if not count:
            raise LookupError(pattern)
        return changed

    call = Draw(700, 2, 4, top_k=300, top_p=0.9, seed=3)
    logits, uniform = call.logits(), call.uniform()

    def execute() -> None:
        tokens = cuda.sample(logits, uniform, 1.0, top_k=300, top_p=0.9, change=change)
        assert torch.equal(tokens, expected_tokens(call, logits, uniform))

    with pytest.raises((Fault, AssertionError)):
        execute()
