"""Small kernels in PTX, written out for a test, and executed."""

from __future__ import annotations

import struct
from typing import Any

import torch
from torch import Tensor

from bench.ptx import parse
from bench.ptx.memory import Arena
from bench.ptx.schedule import execute

_HEAD = """
.version 8.0
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry small(.param .u64 in, .param .u64 out)
{
.reg .pred %p<16>;
.reg .b16 %h<16>;
.reg .b32 %r<64>;
.reg .f32 %f<64>;
.reg .b64 %d<16>;
.reg .f64 %g<16>;
ld.param.u64 %d0, [in];
ld.param.u64 %d1, [out];
mov.u32 %r0, %tid.x;
mul.wide.u32 %d2, %r0, 4;
add.s64 %d3, %d0, %d2;
add.s64 %d4, %d1, %d2;
shl.b32 %r1, %r0, 2;
"""


def small(body: str) -> parse.Kernel:
    """A kernel whose body starts with: %d0 in, %d1 out, %r0 the thread, %r1 four times that, %d3 and %d4 in and out
    at the thread's 32 bits.
    """
    return parse.kernel(f"{_HEAD}{body}\nret;\n}}\n", "small")


def run(
    body: str,
    given: Tensor,
    out: Tensor,
    *,
    threads: int = 64,
    shared: int = 256,
    blocks: int = 1,
    counts: Any = None,
) -> Tensor:
    """`out` after the kernel; what nobody wrote stays as it was."""
    arena = Arena()
    to = arena.place(out, "out", written=False, writable=True)
    parameters = struct.pack("<QQ", arena.place(given, "in"), to)
    execute(
        small(body),
        threads=threads,
        grid=(blocks, 1, 1),
        parameters=parameters,
        memory=arena.space(),
        dynamic_shared=shared,
        counts=counts,
    )
    arena.fetch(out, to, arena.is_written(out, to))
    return out


def words(count: int = 64) -> Tensor:
    return torch.arange(count, dtype=torch.int32)
