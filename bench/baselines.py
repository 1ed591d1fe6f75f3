"""The contenders. Each is built once per case (matrices, buffers) and then called with (logits, prev_logits)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import torch
from torch import Tensor

import ssg_kernels  # noqa: F401  (registers torch.ops.ssg)
from ssg_kernels import reference

from . import factors
from .cases import BETA, CFG, PREV_CFG, Case
from .fft_dct import guided_logits_fft

Step = Callable[[Tensor, Tensor], Tensor]
Build = Callable[[Case, torch.dtype, int], Step]

HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Contender:
    """One way to compute the step.

    ``family`` groups the formulations of one approach; the fastest of a family represents it.
    ``build(case, dtype, outputs)`` returns the step. A contender that writes into its own buffers rotates over
    ``outputs`` of them. ``checked`` is False for the copies, which compute nothing.
    """

    name: str
    family: str
    build: Build
    describe: str
    applies: Callable[[Case, torch.dtype], bool] = lambda case, dtype: not case.cfg
    compiled: bool = False
    checked: bool = True


def ours(case: Case, dtype: torch.dtype, outputs: int) -> Step:
    beta, cfg, prev_cfg = (torch.tensor(x) for x in (BETA, CFG, PREV_CFG))
    size, prev_size = case.size, case.prev_size
    if case.cfg:
        cfg_op = torch.ops.ssg.guided_logits_cfg
        return lambda logits, prev: cfg_op(logits, prev, size, prev_size, beta, cfg, prev_cfg)
    op = torch.ops.ssg.guided_logits
    return lambda logits, prev: op(logits, prev, size, prev_size, beta)


def ours_out(case: Case, dtype: torch.dtype, outputs: int) -> Step:
    beta, cfg, prev_cfg = (torch.tensor(x) for x in (BETA, CFG, PREV_CFG))
    size, prev_size = case.size, case.prev_size
    out = output_buffers(case, dtype, outputs)
    if case.cfg:
        cfg_op = torch.ops.ssg.guided_logits_cfg.out
        return lambda logits, prev: cfg_op(logits, prev, size, prev_size, beta, cfg, prev_cfg, out=next(out))
    op = torch.ops.ssg.guided_logits.out
    return lambda logits, prev: op(logits, prev, size, prev_size, beta, out=next(out))


def naive_eager(case: Case, dtype: torch.dtype, outputs: int) -> Step:
    size, prev_size = case.size, case.prev_size
    if case.cfg:
        return lambda logits, prev: reference.guided_logits_cfg(
            logits, prev, size, prev_size, BETA, CFG, PREV_CFG
        )
    return lambda logits, prev: reference.guided_logits(logits, prev, size, prev_size, BETA)


def naive_fft(case: Case, dtype: torch.dtype, outputs: int) -> Step:
    return lambda logits, prev: guided_logits_fft(logits, prev, case.size, case.prev_size, BETA)


def compiled(build: Build) -> Build:
    def build_compiled(case: Case, dtype: torch.dtype, outputs: int) -> Step:
        return torch.compile(build(case, dtype, outputs), dynamic=False)

    return build_compiled


def baddbmm(case: Case, dtype: torch.dtype, outputs: int) -> Step:
    operator = factors.dense_operator(case.prev_size, case.size).to(dtype).expand(case.batch, -1, -1)
    return lambda logits, prev: torch.baddbmm(logits, operator, prev, beta=1 + BETA, alpha=-BETA)


def addmm(case: Case, dtype: torch.dtype, outputs: int) -> Step:
    operator = factors.dense_operator(case.prev_size, case.size).to(dtype)
    return lambda logits, prev: torch.addmm(logits[0], operator, prev[0], beta=1 + BETA, alpha=-BETA)[None]


def _stacked(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The three terms of each axis: (3, h, h') for rows, (3, w, w') for columns. The column terms carry the signs."""
    (prev_h, prev_w), (h, w) = case.prev_size, case.size
    signs = torch.tensor(factors.SIGNS, dtype=torch.float64).reshape(3, 1, 1)
    return factors.axis_terms(prev_h, h).to(dtype), (factors.axis_terms(prev_w, w) * signs).to(dtype)


def separable_rows_first(case: Case, dtype: torch.dtype, outputs: int) -> Step:
    """One matmul makes all terms of the row axis; a baddbmm contracts (term, column) and guides. Nothing is copied."""
    batch, vocab, (prev_h, prev_w), (h, w) = case.batch, case.vocab, case.prev_size, case.size
    rows, cols = _stacked(case, dtype)
    first = rows.transpose(0, 1).reshape(3 * h, prev_h)
    second = cols.transpose(0, 1).reshape(w, 3 * prev_w).expand(batch * h, -1, -1)

    def step(logits: Tensor, prev: Tensor) -> Tensor:
        terms = torch.matmul(first, prev.view(batch, prev_h, prev_w * vocab)).view(
            batch * h, 3 * prev_w, vocab
        )
        out = torch.baddbmm(logits.view(batch * h, w, vocab), second, terms, beta=1 + BETA, alpha=-BETA)
        return out.view(batch, h * w, vocab)

    return step


def separable_columns_first(case: Case, dtype: torch.dtype, outputs: int) -> Step:
    """The same with the column axis first: a batched matmul, then a baddbmm over the (row, term) axis."""
    batch, vocab, (prev_h, prev_w), (h, w) = case.batch, case.vocab, case.prev_size, case.size
    rows, cols = _stacked(case, dtype)
    first = cols.reshape(3 * w, prev_w).expand(batch * prev_h, -1, -1)
    second = rows.permute(1, 2, 0).reshape(h, 3 * prev_h).expand(batch, -1, -1)

    def step(logits: Tensor, prev: Tensor) -> Tensor:
        terms = torch.matmul(first, prev.view(batch * prev_h, prev_w, vocab)).view(
            batch, 3 * prev_h, w * vocab
        )
        out = torch.baddbmm(logits.view(batch, h, w * vocab), second, terms, beta=1 + BETA, alpha=-BETA)
        return out.view(batch, h * w, vocab)

    return step


def separable_blocked(case: Case, dtype: torch.dtype, outputs: int, block: int) -> Step:
    """`separable_rows_first`, ``block`` output rows at a time, in a small workspace that is kept between calls."""
    batch, vocab, (prev_h, prev_w), (h, w) = case.batch, case.vocab, case.prev_size, case.size
    rows, cols = _stacked(case, dtype)
    first = rows.transpose(0, 1).reshape(3 * h, prev_h)
    second = cols.transpose(0, 1).reshape(w, 3 * prev_w).expand(block, -1, -1)
    workspace = torch.empty(3 * block, prev_w * vocab, dtype=dtype)
    blocks = [(start, min(start + block, h)) for start in range(0, h, block)]

    def step(logits: Tensor, prev: Tensor) -> Tensor:
        out = torch.empty_like(logits)
        fine, guided = logits.view(batch, h, w, vocab), out.view(batch, h, w, vocab)
        for b, coarse in enumerate(prev.view(batch, prev_h, prev_w * vocab)):
            for start, stop in blocks:
                n = stop - start
                terms = torch.mm(first[3 * start : 3 * stop], coarse, out=workspace[: 3 * n])
                torch.baddbmm(
                    fine[b, start:stop],
                    second[:n],
                    terms.view(n, 3 * prev_w, vocab),
                    beta=1 + BETA,
                    alpha=-BETA,
                    out=guided[b, start:stop],
                )
        return out

    return step


def through_float32(build: Build) -> Build:
    """Computes half-precision logits in float32 and rounds once. Unlike the steps above, it stays within the bound."""

    def build_float32(case: Case, dtype: torch.dtype, outputs: int) -> Step:
        step = build(case, torch.float32, outputs)
        return lambda logits, prev: step(logits.float(), prev.float()).to(dtype)

    return build_float32


def merged(build: Build) -> Build:
    """Merges the halves of classifier-free guidance with one lerp per scale, then runs a contender on the result."""

    def build_merged(case: Case, dtype: torch.dtype, outputs: int) -> Step:
        step = build(case, dtype, outputs)
        batch = case.batch

        def run(logits: Tensor, prev: Tensor) -> Tensor:
            fine = torch.lerp(logits[batch:], logits[:batch], 1 + CFG)
            return step(fine, torch.lerp(prev[batch:], prev[:batch], 1 + PREV_CFG))

        return run

    return build_merged


def merged_once(build: Build) -> Build:
    """The same, but keeps the merged logits of the previous scale, so that a step merges only the current one."""

    def build_merged(case: Case, dtype: torch.dtype, outputs: int) -> Step:
        step = build(case, dtype, outputs)
        batch = case.batch
        kept: dict[int, tuple[Tensor, Tensor]] = {}

        def run(logits: Tensor, prev: Tensor) -> Tensor:
            entry = kept.get(id(prev))
            if entry is None:
                # Keeping the input keeps its id from being given to another tensor.
                entry = kept[id(prev)] = (prev, torch.lerp(prev[batch:], prev[:batch], 1 + PREV_CFG))
            return step(torch.lerp(logits[batch:], logits[:batch], 1 + CFG), entry[1])

        return run

    return build_merged


def output_buffers(case: Case, dtype: torch.dtype, outputs: int) -> Iterator[Tensor]:
    """An endless iterator over ``outputs`` buffers in turn. Every page of them has been touched."""
    return cycle([torch.zeros(case.batch, case.tokens, case.vocab, dtype=dtype) for _ in range(outputs)])


def copy(case: Case, dtype: torch.dtype, outputs: int, fresh: bool) -> Step:
    """Moves the bytes of the step and does nothing else: copies the conditional logits and sums every other input.

    The sum treats the bytes as int64, which is the cheapest pass that reads everything and writes nothing.
    """
    batch = case.batch
    out = output_buffers(case, dtype, outputs if not fresh else 1)
    words: dict[int, tuple[Tensor, list[Tensor]]] = {}

    def read_only(logits: Tensor, prev: Tensor) -> list[Tensor]:
        entry = words.get(id(prev))
        if entry is None:
            parts = [prev, logits[batch:]] if case.cfg else [prev]
            # Keeping prev keeps its id from being given to another tensor.
            entry = words[id(prev)] = (prev, [part.reshape(-1).view(torch.int64) for part in parts])
        return entry[1]

    def step(logits: Tensor, prev: Tensor) -> Tensor:
        for part in read_only(logits, prev):
            part.sum()
        source = logits[:batch] if case.cfg else logits
        return source.clone() if fresh else next(out).copy_(source)

    return step


def _blockable(case: Case, dtype: torch.dtype, block: int) -> bool:
    return not case.cfg and case.size[0] > block


def half(case: Case, dtype: torch.dtype) -> bool:
    return not case.cfg and dtype in HALF


def with_cfg(case: Case, dtype: torch.dtype) -> bool:
    return case.cfg


def always(case: Case, dtype: torch.dtype) -> bool:
    return True


CONTENDERS: tuple[Contender, ...] = (
    Contender("ours", "ours", ours, "torch.ops.ssg.guided_logits(_cfg), a new output per call", always),
    Contender("ours_out", "ours_out", ours_out, "the same into a given output", always),
    Contender(
        "baddbmm", "baddbmm", baddbmm, "one torch.baddbmm with the dense operator in the logits' dtype"
    ),
    Contender(
        "addmm",
        "baddbmm",
        addmm,
        "one torch.addmm with the same operator, B = 1",
        lambda case, dtype: not case.cfg and case.batch == 1,
    ),
    Contender(
        "separable_rows", "separable", separable_rows_first, "matmul over rows, then baddbmm over columns"
    ),
    Contender(
        "separable_columns",
        "separable",
        separable_columns_first,
        "matmul over columns, then baddbmm over rows",
    ),
    *(
        Contender(
            f"separable_rows_{block}",
            "separable",
            partial(separable_blocked, block=block),
            f"separable_rows, {block} output rows at a time in a kept workspace",
            partial(_blockable, block=block),
        )
        for block in (4, 8)
    ),
    Contender(
        "baddbmm_float32",
        "baddbmm",
        through_float32(baddbmm),
        "baddbmm on logits cast to float32 and back",
        half,
    ),
    Contender(
        "separable_float32",
        "separable",
        through_float32(separable_rows_first),
        "separable_rows on logits cast to float32 and back",
        half,
    ),
    Contender("merge_baddbmm", "baddbmm", merged(baddbmm), "two lerps, then baddbmm", with_cfg),
    Contender(
        "merge_baddbmm_kept",
        "baddbmm",
        merged_once(baddbmm),
        "one lerp, then baddbmm; the previous scale's merged logits are kept",
        with_cfg,
    ),
    Contender(
        "merge_separable",
        "separable",
        merged(separable_rows_first),
        "two lerps, then separable_rows",
        with_cfg,
    ),
    Contender(
        "merge_separable_kept",
        "separable",
        merged_once(separable_rows_first),
        "one lerp, then separable_rows; the previous scale's merged logits are kept",
        with_cfg,
    ),
    Contender(
        "naive_eager", "naive_eager", naive_eager, "ssg_kernels.reference in the logits' dtype", always
    ),
    Contender("naive_fft", "naive_fft", naive_fft, "interpolate and an FFT-based DCT on (B, V, h, w)"),
    Contender(
        "naive_eager_compiled",
        "naive_compiled",
        compiled(naive_eager),
        "naive_eager under torch.compile",
        always,
        compiled=True,
    ),
    Contender(
        "naive_fft_compiled",
        "naive_compiled",
        compiled(naive_fft),
        "naive_fft under torch.compile",
        compiled=True,
    ),
    Contender(
        "copy_out",
        "copy_out",
        partial(copy, fresh=False),
        "the same bytes: logits copied into a given output, every other input summed",
        always,
        checked=False,
    ),
    Contender(
        "copy_fresh",
        "copy_fresh",
        partial(copy, fresh=True),
        "the same bytes into a new output per call",
        always,
        checked=False,
    ),
)


def contenders(case: Case, dtype: torch.dtype, compile_too: bool = True) -> list[Contender]:
    """The contenders that exist for a case, in the order in which they are shown."""
    return [c for c in CONTENDERS if c.applies(case, dtype) and (compile_too or not c.compiled)]


def by_name(name: str) -> Contender:
    return next(c for c in CONTENDERS if c.name == name)
