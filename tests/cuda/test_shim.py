"""The shim that runs kernels on the host: its faults are seen, its instructions compute what the GPU's do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.cuda_on_host import HOST


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("never waited", "copies under way"),
        ("out of bounds", "bytes of shared memory"),
        ("written behind", "behind the shared memory"),
        ("misaligned", "not aligned"),
        ("part of a block", "part of the block"),
        ("part of a warp", "part of the warp"),
        ("different instructions", "different instructions"),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_faults_raise(fault: str, message: str, reverse: bool) -> None:
    with pytest.raises(RuntimeError, match=message):
        HOST.cuda_fault(fault, reverse)


def test_a_copy_that_is_not_waited_for_has_not_arrived() -> None:
    assert all(math.isnan(x) for x in HOST.cuda_fault("missing wait"))


def test_a_missing_barrier_gives_other_bits_in_another_order() -> None:
    forward, backward = (np.array(HOST.cuda_fault("missing barrier", reverse)) for reverse in (False, True))
    assert not np.array_equal(forward, backward)


@pytest.mark.parametrize("depth", [8, 16])
def test_mma_multiplies_matrices_of_float16(depth: int) -> None:
    rng = np.random.default_rng(depth)
    # Small integers are exact in float16.
    a = rng.integers(-99, 99, (16, depth)).astype(np.float32)
    b = rng.integers(-99, 99, (depth, 8)).astype(np.float32)
    c = np.array(HOST.cuda_mma(a.ravel(), b.ravel(), depth)).reshape(16, 8)
    np.testing.assert_array_equal(c, a @ b)


@given(
    st.floats(width=32),
    st.sampled_from([torch.bfloat16, torch.float16]),
)
def test_rounding_is_torch_s(x: float, dtype: torch.dtype) -> None:
    expected = torch.tensor(x, dtype=torch.float32).to(dtype)
    bits, value = HOST.cuda_round(x, str(dtype).removeprefix("torch."))
    assert math.isnan(value) if expected.isnan() else value == expected.item()
    if not expected.isnan():
        assert bits == expected.view(torch.int16).item() & 0xFFFF


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_half_is_read_and_written(dtype: torch.dtype) -> None:
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    for half, value in zip(every.view(torch.int16).tolist(), every.float().tolist(), strict=True):
        bits, read = HOST.cuda_round(value, str(dtype).removeprefix("torch."))
        if not math.isnan(value):
            assert (bits, read) == (half & 0xFFFF, value)
