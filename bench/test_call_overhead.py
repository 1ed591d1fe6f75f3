"""Times the smallest steps with pytest-benchmark: ``python -m pytest bench/test_call_overhead.py``.

Each size is a group; compare with torch.addmm in the same group. The normal test run leaves this file out.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench import check
from bench.cases import Case, make_inputs
from bench.overhead import SIZES, calls

NAMES = tuple(calls(SIZES[0], *make_inputs(SIZES[0], torch.float32)[0]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", SIZES, ids=lambda case: case.name)
def test_call_overhead(benchmark: BenchmarkFixture, case: Case, name: str) -> None:
    inputs = make_inputs(case, torch.float32)[0]
    call = calls(case, *inputs)[name]
    benchmark.group = case.name
    with torch.inference_mode():
        got = call().reshape(1, case.tokens, case.vocab)
        assert check.judge(got, check.expected(case, *inputs), torch.float32).verdict == "exact"
        benchmark(call)
