"""The compilers' own PTX with one thing changed: a fault, or a result that misses its bound."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest
import torch
from support.bounds import assert_accurate
from support.cuda_on_host import expected_of
from support.executed import check, require_nvcc
from support.strategies import Call

from bench.ptx.faults import Fault

require_nvcc()

# Groups of rows follow one another, so that the second one overwrites what the first one left.
CALL = Call((16, 8), (12, 6), 1, 32)


def swapped(pattern: str, by: str, count: int = 0, first: int = 0) -> Callable[[str], str]:
    """Replaces the matches of the pattern from number `first` on, `count` of them or all."""

    def change(text: str) -> str:
        found = list(re.finditer(pattern, text))[first:]
        found = found[:count] if count else found
        if not found:  # no assertion, which would pass for one of the result
            raise LookupError(pattern)
        for match in reversed(found):
            text = text[: match.start()] + match.expand(by) + text[match.end() :]
        return text

    return change


CUDA = {
    "the barrier before the output": ("mma 2", swapped(r"bar\.sync\s+0;", "")),
    "the first barrier, fma": ("fma 2", swapped(r"bar\.sync\s+0;", "", 1)),
    "the second barrier, fma": ("fma 2", swapped(r"bar\.sync\s+0;", "", 1, 1)),
    "the wait for copies": ("fma 2", swapped(r"cp\.async\.wait_group\s+0;", "")),
    "a wait for older copies only": (
        "fma 2",
        swapped(r"cp\.async\.wait_group\s+0;", "cp.async.wait_group 1;"),
    ),
    "no group of copies": ("fma 2", swapped(r"cp\.async\.commit_group;", "")),
    "operands of a product": (
        "mma 2",
        swapped(r"(mma\.sync.*m16n8k16[^;]*\{[^}]*\}, \{%r\d+, )(%r\d+), (%r\d+)", r"\1\3, \2"),
    ),
    "no rest after the high part": ("mma 2", swapped(r"mma\.sync[^;]*m16n8k8[^;]*;", "")),
    "accumulators of a product": ("mma 2", swapped(r"(mma\.sync[^{]*)\{(%f\d+), (%f\d+)", r"\1{\3, \2")),
    "a matrix in shared memory": ("mma 2", swapped(r"(ldmatrix[^\[]*\[%r\d+)\]", r"\1+16]")),
    "a row in global memory": ("fma 2", swapped(r"(st\.global\.v2\.f32\s+\[%rd\d+)\]", r"\1+8]")),
    "a misaligned row": ("fma 2", swapped(r"(st\.global\.v2\.f32\s+\[%rd\d+)\]", r"\1+4]")),
    "the exchange of chunks": ("mma 2", swapped(r"xor\.b32", "or.b32")),
    "a sum in place of a difference": ("fma 2", swapped(r"sub\.f32", "add.f32", 1)),
    "a bound of a loop": ("fma 2", swapped(r"setp\.ge\.s32", "setp.gt.s32")),
    "an element's size": ("fma 2", swapped(r"(shl\.b64\s+%rd\d+, %rd\d+, )2;", r"\g<1>1;")),
    "no multiplication": (
        "fma 2",
        swapped(r"fma\.rn\.f32\s+(%f\d+), (%f\d+), (%f\d+), (%f\d+)", r"add.f32 \1, \2, \4"),
    ),
}


def test_the_kernels_are_right_unchanged() -> None:
    for name in ("mma 2", "fma 2"):
        check(CALL, variant=name)


@pytest.mark.parametrize("name", CUDA)
def test_a_changed_cuda_kernel_is_caught(name: str) -> None:
    variant, change = CUDA[name]
    with pytest.raises((Fault, AssertionError)) as found:
        check(CALL, variant=variant, change=change)
    assert not isinstance(found.value, Fault) or not found.value.kind.startswith("unknown"), found.value


TRITON = {
    "all barriers": ("sm_90", swapped(r"bar\.sync\s+0;", "")),
    "the fences of the asynchronous proxy": ("sm_90", swapped(r"fence\.proxy\.async\.shared::cta;", "")),
    "the waits for products": ("sm_90", swapped(r"wgmma\.wait_group\.sync\.aligned\s+0;", "")),
    "the waits for copies": ("sm_90", swapped(r"cp\.async\.wait_group\s+\d;", "")),
    "a descriptor": ("sm_90", swapped(r"(or\.b64\s+%rd\d+, %rd\d+, )-?\d+;", r"\g<1>0;")),
    "the operands of wgmma": (
        "sm_90",
        swapped(r"(wgmma\.mma_async[^{]*\{[^}]*\}, )(%rd\d+), (%rd\d+)", r"\1\3, \2"),
    ),
    "all barriers of mma.sync": ("sm_80", swapped(r"bar\.sync\s+0;", "")),
    "the operands of mma.sync": (
        "sm_80",
        swapped(r"(mma\.sync[^{]*\{[^}]*\}, \{ ?%r\d+, )(%r\d+), (%r\d+)", r"\1\3, \2"),
    ),
    "a matrix in shared memory": ("sm_80", swapped(r"(ldmatrix[^\[]*\[%r\d+)\]", r"\1+16]")),
    "the store": ("sm_80", swapped(r"(st\.global\.v4\.b32 \[ %rd\d+ \+ )0", r"\g<1>16")),
}


@pytest.mark.parametrize("name", TRITON)
def test_a_changed_triton_kernel_is_caught(name: str) -> None:
    pytest.importorskip("triton")
    from support.triton_forms import of_form

    from bench.ptx import triton
    from ssg_kernels._call import GuidedCall, Options
    from ssg_kernels._triton import launch

    target, change = TRITON[name]
    call = Call((16, 16), (12, 12), 1, 64)
    logits, prev_logits = call.logits(), call.prev_logits()
    expected = expected_of(call, logits, prev_logits, 0.5)
    out = torch.full(logits.shape, torch.nan)
    made = GuidedCall(
        "guided_logits", logits, prev_logits, call.size, call.prev_size, (0.5,), Options(*call.options), out
    )
    (launched,) = triton.launches(lambda: launch.guided(made), target, of_form("dense_halves"))
    changed = dataclasses.replace(launched, ptx=change(launched.ptx))

    def execute() -> None:
        triton.run(changed, out)
        assert_accurate(out, expected)

    with pytest.raises((Fault, AssertionError)) as found:
        execute()
    assert not isinstance(found.value, Fault) or not found.value.kind.startswith("unknown"), found.value
