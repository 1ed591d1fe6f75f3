"""What the step is timed against on a GPU; each contender is built once per case, as in baselines.py."""

from __future__ import annotations

from itertools import cycle

import torch
from torch import Tensor

from . import baselines, factors
from .baselines import Build, Contender, Step
from .cases import BETA, CFG, PREV_CFG, Case

# The cases that are compiled as well: compiling takes half a minute.
COMPILED = ("var256-13-16-b64", "var512-24-32-b16", "1024px-48-64-b4")


def naive_matrices(case: Case, dtype: torch.dtype, outputs: int) -> Step:
    """The algorithm step by step on (B, V, h, w) maps.

    The DCT matrices are made beforehand, so that no call copies from the host.
    """
    (prev_h, prev_w), (h, w) = case.prev_size, case.size
    dct = {n: factors.dct_matrix(n).float() for n in {prev_h, prev_w, h, w}}

    def maps(x: Tensor, rows: int, columns: int) -> Tensor:
        return x.float().permute(0, 2, 1).reshape(x.shape[0], x.shape[2], rows, columns)

    def step(logits: Tensor, prev: Tensor) -> Tensor:
        if case.cfg:
            (c, u), (prev_c, prev_u) = logits.chunk(2), prev.chunk(2)
            logits, prev = (1 + CFG) * c - CFG * u, (1 + PREV_CFG) * prev_c - PREV_CFG * prev_u
        fine, coarse = maps(logits, h, w), maps(prev, prev_h, prev_w)
        upsampled = torch.nn.functional.interpolate(coarse, size=(h, w), mode="bilinear")
        spectrum = dct[h] @ upsampled @ dct[w].T
        spectrum[..., :prev_h, :prev_w] = dct[prev_h] @ coarse @ dct[prev_w].T
        prior = dct[h].T @ spectrum @ dct[w]
        guided = fine + BETA * (fine - prior)
        return (
            guided.reshape(fine.shape[0], fine.shape[1], h * w).permute(0, 2, 1).contiguous().to(logits.dtype)
        )

    return step


def with_tf32(build: Build) -> Build:
    """The same step with TF32 allowed in torch's float32 products."""

    def build_tf32(case: Case, dtype: torch.dtype, outputs: int) -> Step:
        step = build(case, dtype, outputs)

        def run(logits: Tensor, prev: Tensor) -> Tensor:
            torch.backends.cuda.matmul.allow_tf32 = True
            try:
                return step(logits, prev)
            finally:
                torch.backends.cuda.matmul.allow_tf32 = False

        return run

    return build_tf32


def compiled(build: Build, mode: str) -> Build:
    def build_compiled(case: Case, dtype: torch.dtype, outputs: int) -> Step:
        return torch.compile(build(case, dtype, outputs), dynamic=False, mode=mode)

    return build_compiled


def copy(case: Case, dtype: torch.dtype, outputs: int) -> Step:
    """One device-to-device copy that moves as many bytes as the step reads and writes together."""
    elements = case.bytes_moved(dtype) // (2 * dtype.itemsize)
    source = torch.zeros(outputs, elements, dtype=dtype)
    targets = torch.zeros_like(source)
    turn = cycle(range(outputs))

    def step(logits: Tensor, prev: Tensor) -> Tensor:
        i = next(turn)
        return targets[i].copy_(source[i])

    return step


def _plain(case: Case, dtype: torch.dtype) -> bool:
    return not case.cfg


def _in_float32(case: Case, dtype: torch.dtype) -> bool:
    return not case.cfg and dtype == torch.float32


def _compiled(case: Case, dtype: torch.dtype) -> bool:
    return case.name in COMPILED


CONTENDERS: tuple[Contender, ...] = (
    *(
        Contender(
            f"ours_{name}",
            "ours",
            baselines.ours,
            f"torch.ops.ssg.guided_logits(_cfg), {name}",
            baselines.always,
        )
        for name in ("cuda", "triton", "cpu")
    ),
    Contender(
        "baddbmm", "baddbmm", baselines.baddbmm, "one torch.baddbmm with the dense operator, TF32 off", _plain
    ),
    Contender("baddbmm_tf32", "baddbmm", with_tf32(baselines.baddbmm), "the same, TF32 on", _in_float32),
    Contender(
        "baddbmm_float32",
        "baddbmm",
        baselines.through_float32(baselines.baddbmm),
        "baddbmm on logits cast to float32 and back",
        baselines.half,
    ),
    Contender(
        "separable_rows",
        "separable",
        baselines.separable_rows_first,
        "matmul over rows, then baddbmm",
        _plain,
    ),
    Contender(
        "merge_baddbmm",
        "baddbmm",
        baselines.merged(baselines.baddbmm),
        "two lerps, then baddbmm, TF32 off",
        baselines.with_cfg,
    ),
    Contender(
        "merge_baddbmm_tf32",
        "baddbmm",
        with_tf32(baselines.merged(baselines.baddbmm)),
        "the same, TF32 on",
        lambda case, dtype: case.cfg and dtype == torch.float32,
    ),
    Contender(
        "naive_matrices",
        "naive_eager",
        naive_matrices,
        "the algorithm step by step, matrix DCT",
        baselines.always,
    ),
    Contender("naive_fft", "naive_fft", baselines.naive_fft, "the same with an FFT-based DCT", _plain),
    *(
        Contender(
            f"naive_matrices_{mode.replace('-', '_')}",
            "naive_compiled",
            compiled(naive_matrices, mode),
            f"naive_matrices under torch.compile, mode {mode}",
            _compiled,
            compiled=True,
        )
        for mode in ("default", "max-autotune-no-cudagraphs")
    ),
    Contender(
        "copy_fresh",
        "copy_fresh",
        copy,
        "a device-to-device copy of the same bytes",
        baselines.always,
        checked=False,
    ),
)
