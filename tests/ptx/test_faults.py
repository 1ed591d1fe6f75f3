"""Everything that the executor checks is shown to fail: a kernel with one fault, and the same one without."""

from __future__ import annotations

import pytest
import torch
from support.ptx_text import run, words

from bench.ptx.faults import Fault

# Kind of the fault, the kernel with it, and what to replace for one that is right.
FAULTS = {
    "a load beyond the end": (
        "out of bounds",
        "ld.global.u32 %r2, [%d3+4]; st.global.u32 [%d4], %r2;",
        ("[%d3+4]", "[%d3]"),
    ),
    "a store beyond the end": ("out of bounds", "st.global.u32 [%d4+4], %r0;", ("[%d4+4]", "[%d4]")),
    "a store to what is only read": ("out of bounds", "st.global.u32 [%d3], %r0;", ("%d3", "%d4")),
    "beyond shared memory": ("out of bounds", "st.shared.u32 [%r1+4], %r0;", ("[%r1+4]", "[%r1]")),
    "before shared memory": (
        "out of bounds",
        "sub.u32 %r2, %r1, 4; st.shared.u32 [%r2], %r0;",
        ("%r1, 4", "%r1, 0"),
    ),
    "beyond the parameters": ("out of bounds", "ld.param.u64 %d5, [out+8];", ("out+8", "out")),
    "misaligned in shared memory": (
        "misaligned",
        "st.shared.u32 [%r1], %r0; bar.sync 0; and.b32 %r2, %r1, 120; ld.shared.v2.u32 {%r3, %r4}, [%r2+4];",
        ("[%r2+4]", "[%r2]"),
    ),
    "misaligned in global memory": (
        "misaligned",
        "st.global.u64 [%d4], %d2;",
        ("st.global.u64 [%d4], %d2", ""),
    ),
    "a register that decides": (
        "uninitialised",
        "setp.eq.u32 %p1, %r9, 0; @%p1 bra end; st.global.u32 [%d4], %r0; end:",
        ("%r9", "%r0"),
    ),
    "a register in an address": ("uninitialised", "st.shared.u32 [%r9], %r0;", ("%r9", "%r1")),
    "a register on one way only": (
        "uninitialised",
        "setp.lt.u32 %p1, %r0, 5; @%p1 bra end; mov.u32 %r9, 1; end: st.global.u32 [%d4], %r9;",
        ("mov.u32 %r9, 1; end:", "end: mov.u32 %r9, 1;"),
    ),
    "the undefined half of a register": (
        "uninitialised",
        "mov.b64 %d5, {%r0, %r9}; add.rn.f32x2 %d5, %d5, %d5; mov.b64 {%r2, %r3}, %d5; st.global.u32 [%d4], %r3;",
        ("%r3;", "%r2;"),
    ),
    "a register that was shuffled": (
        "uninitialised",
        "shfl.sync.bfly.b32 %r2, %r9, 1, 31, -1; st.global.u32 [%d4], %r2;",
        ("%r9", "%r0"),
    ),
    "a register that says which lane": (
        "uninitialised",
        "shfl.sync.idx.b32 %r2, %r0, %r9, 31, -1;",
        ("%r9", "%r1"),
    ),
    "a register that a matrix was stored from": (
        "uninitialised",
        "and.b32 %r2, %r0, 7; and.b32 %r3, %r0, 32; shl.b32 %r2, %r2, 4; shl.b32 %r3, %r3, 2; add.u32 %r2, %r2, %r3;"
        "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r2], {%r9}; bar.sync 0;"
        "ld.shared.u32 %r4, [%r1]; st.global.u32 [%d4], %r4;",
        ("%r9", "%r0"),
    ),
    "shared memory": (
        "uninitialised",
        "ld.shared.u32 %r2, [%r1]; add.u32 %r2, %r2, 1; st.global.u32 [%d4], %r2;",
        ("ld.", "st.shared.u32 [%r1], %r0; ld."),
    ),
    "shared memory, copied there": (
        "uninitialised",
        "setp.lt.u32 %p1, %r0, 9; @%p1 bra end; st.shared.u32 [%r1], %r0; end: bar.sync 0;"
        "ld.shared.u32 %r2, [%r1]; bar.sync 0; st.shared.u32 [%r1], %r2; bar.sync 0;"
        "ld.shared.u32 %r3, [%r1]; st.global.u32 [%d4], %r3;",
        ("%r0, 9", "%r0, 0"),
    ),
    "output as input": ("uninitialised", "ld.global.u32 %r2, [%d4];", ("%d4", "%d3")),
    "a missing barrier before reading": (
        "race",
        "st.shared.u32 [%r1], %r0; xor.b32 %r2, %r1, 128; ld.shared.u32 %r3, [%r2];",
        ("xor", "bar.sync 0; xor"),
    ),
    "a missing barrier before writing": (
        "race",
        "st.shared.u32 [%r1], %r0; bar.sync 0; xor.b32 %r2, %r1, 128; ld.shared.u32 %r3, [%r2];"
        "st.shared.u32 [%r1], %r3;",
        ("st.shared.u32 [%r1], %r3", "bar.sync 0; st.shared.u32 [%r1], %r3"),
    ),
    "a missing barrier of the warp": (
        "race",
        "st.shared.u32 [%r1], %r0; xor.b32 %r2, %r1, 4; ld.shared.u32 %r3, [%r2];",
        ("xor", "bar.warp.sync -1; xor"),
    ),
    "the barrier of another warp": (
        "race",
        "st.shared.u32 [%r1], %r0; bar.warp.sync -1; xor.b32 %r2, %r1, 128; ld.shared.u32 %r3, [%r2];",
        ("bar.warp.sync -1", "bar.sync 0"),
    ),
    "two writers": ("race", "and.b32 %r2, %r1, 127; st.shared.u32 [%r2], %r0;", (", 127", ", 255")),
    "two writers of a warp": (
        "race",
        "and.b32 %r2, %r1, 60; and.b32 %r3, %r1, 128; add.u32 %r2, %r2, %r3; st.shared.u32 [%r2], %r0;",
        (", %r0;", ", %r3;"),
    ),
    "a sum that is read too early": (
        "race",
        "st.shared.u32 [%r1], %r0; bar.sync 0; atom.shared.add.u32 %r2, [dynamic], 1; ld.shared.u32 %r3, [dynamic];",
        ("ld.shared.u32 %r3", "bar.sync 0; ld.shared.u32 %r3"),
    ),
    "a copy read before it was waited for": (
        "uninitialised",
        "cvt.u64.u32 %d5, %r0; cp.async.ca.shared.global [%r1], [%d3], 4; cp.async.commit_group;"
        "ld.shared.u32 %r2, [%r1]; cp.async.wait_group 0; st.global.u32 [%d4], %r2;",
        (
            "ld.shared.u32 %r2, [%r1]; cp.async.wait_group 0;",
            "cp.async.wait_group 0; ld.shared.u32 %r2, [%r1];",
        ),
    ),
    "a wait that leaves the copy's group out": (
        "uninitialised",
        "cp.async.ca.shared.global [%r1], [%d3], 4; cp.async.commit_group; cp.async.wait_group 1;"
        "ld.shared.u32 %r2, [%r1]; st.global.u32 [%d4], %r2; cp.async.wait_group 0;",
        ("wait_group 1", "wait_group 0"),
    ),
    "a copy of others, without a barrier": (
        "race",
        "cp.async.ca.shared.global [%r1], [%d3], 4; cp.async.commit_group; cp.async.wait_group 0;"
        "xor.b32 %r2, %r1, 128; ld.shared.u32 %r3, [%r2];",
        ("xor", "bar.sync 0; xor"),
    ),
    "a copy that nobody waits for": (
        "uninitialised",
        "cp.async.ca.shared.global [%r1], [%d3], 4; cp.async.commit_group;",
        ("commit_group;", "commit_group; cp.async.wait_all;"),
    ),
    "a barrier for half of the block": (
        "diverged",
        "setp.lt.u32 %p1, %r0, 32; @%p1 bar.sync 0;",
        ("@%p1 bar", "bar"),
    ),
    "a barrier in a branch of a warp": (
        "diverged",
        "setp.lt.u32 %p1, %r0, 7; @%p1 bra end; bar.sync 0; end:",
        ("bar.sync 0; end:", "end: bar.sync 0;"),
    ),
    "a shuffle of some lanes": (
        "diverged",
        "setp.lt.u32 %p1, %r0, 7; @%p1 bra end; shfl.sync.bfly.b32 %r2, %r0, 1, 31, -1; bra done;"
        "end: shfl.sync.bfly.b32 %r2, %r0, 1, 31, -1; done:",
        ("%r0, 7;", "%r0, 32;"),
    ),
    "a matrix instruction of some lanes": (
        "diverged",
        "setp.lt.u32 %p1, %r0, 7; @%p1 bra end; mov.f32 %f0, 0f00000000;"
        "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%f0,%f0,%f0,%f0}, {%r0,%r0}, {%r0}, {%f0,%f0,%f0,%f0};"
        "end:",
        ("@%p1 bra end;", ""),
    ),
    "an instruction nobody knows": (
        "unknown instruction",
        "sin.approx.f32 %f1, 0f00000000;",
        ("sin.approx", "neg"),
    ),
    "a modifier nobody knows": ("unknown instruction", "add.sat.s32 %r2, %r0, 1;", (".sat", "")),
    "a barrier of some threads": ("unknown instruction", "bar.sync 1, 32;", ("1, 32", "0")),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name: str) -> None:
    kind, body, (wrong, right) = FAULTS[name]
    assert body.count(wrong) == 1
    with pytest.raises(Fault) as found:
        run(body, words(), torch.full((64,), -1, dtype=torch.int32))
    assert found.value.kind == kind, found.value
    run(body.replace(wrong, right), words(), torch.full((64,), -1, dtype=torch.int32))


def test_an_undefined_value_that_decides_nothing_is_no_fault() -> None:
    """As compilers do it: computed for all, also where a branch chooses the value, and stored by those who have one."""
    body = """
    setp.lt.u32 %p1, %r0, 9;
    @%p1 bra some; st.shared.u32 [%r1], %r0;
    some: ld.shared.u32 %r2, [%r1];
    add.u32 %r3, %r2, 5;
    setp.gt.u32 %p2, %r3, 40;
    @%p2 bra large; add.u32 %r3, %r3, 1;
    large: shfl.sync.bfly.b32 %r3, %r3, 0, 31, -1;
    and.b32 %r4, %r0, 7; and.b32 %r5, %r0, 32; shl.b32 %r4, %r4, 4; shl.b32 %r5, %r5, 2; add.u32 %r4, %r4, %r5;
    bar.sync 0; stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%r4], {%r3};
    bar.sync 0; ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r3}, [%r4];
    @%p1 bra end; st.global.u32 [%d4], %r3;
    end:"""
    out = run(body, words(), torch.full((64,), -1, dtype=torch.int32))
    expected = torch.arange(64, dtype=torch.int32) + 5
    expected += (expected <= 40).int()
    expected[:9] = -1
    assert torch.equal(out, expected)


WGMMA = """
    mul.lo.u32 %r2, %r0, 4; mov.u32 %r3, 0;
    st.shared.u32 [%r2], %r3;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    mov.f32 %f0, 0f00000000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;
    mov.b64 %d5, 0x0000000800080000;
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {%f0,%f1,%f2,%f3}, {%r3,%r3,%r3,%r3}, %d5, 1, 1, 1;
    wgmma.commit_group.sync.aligned;
    bar.sync 0;
    wgmma.wait_group.sync.aligned 0;
    st.shared.u32 [%r2], %r0;
    st.global.f32 [%d4], %f0;
"""
_WAIT = "wgmma.wait_group.sync.aligned 0;"


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        ("race", "fence.proxy.async.shared::cta;", ""),
        ("race", "bar.sync 0;\n    mov.f32", "mov.f32"),
        ("uninitialised", _WAIT, ""),
        ("uninitialised", _WAIT, "wgmma.wait_group.sync.aligned 1;"),
        ("race", f"{_WAIT}\n    st.shared.u32 [%r2], %r0;", f"st.shared.u32 [%r2], %r0; {_WAIT}"),
        ("uninitialised", "    st.shared.u32 [%r2], %r3;", ""),
        ("unknown operand", "0x0000000800080000", "0x0002000800080000"),
    ],
)
def test_faults_of_asynchronous_products(kind: str, wrong: str, right: str) -> None:
    out = torch.full((128,), -1.0)
    assert not run(WGMMA, words(128), out, threads=128, shared=512).any()
    assert WGMMA.count(wrong) == 1
    body = WGMMA.replace(wrong, right)
    if wrong == _WAIT:  # without it, the store would be a race
        body = body.replace("st.shared.u32 [%r2], %r0;", "")
    with pytest.raises(Fault) as found:
        run(body, words(128), out, threads=128, shared=512)
    assert found.value.kind == kind, found.value
