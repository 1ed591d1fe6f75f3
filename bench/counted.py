"""What the GPU kernels cost, counted by executing what the compilers made of them, on a machine without a GPU.

    python -m bench.counted --target sm_90 --backend cuda --json counted.json

Executes some blocks of each step, checks their result against the reference, and counts. `counted_us` is the largest of
what can bind, by the rates of bench/ptx/rates.py, and what no other block hides: a model of the time, no measurement.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from bench.cases import VAR_256
from bench.ptx import cuda, model, rates, resources
from bench.ptx.counts import Counts
from bench.ptx.model import Launched
from ssg_kernels import reference
from ssg_kernels._call import GuidedCall, Options

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = ("dse", "bilinear", False)
# The executor's own bound, far above rounding of the result and far below a wrong kernel.
_TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


@dataclass(frozen=True)
class Case:
    size: int
    prev_size: int
    batch: int
    vocabulary: int
    dtype: torch.dtype
    cfg: bool = False
    of: str = ""  # what the step is part of

    @property
    def name(self) -> str:
        return f"{self.prev_size}->{self.size}"

    @property
    def halves(self) -> int:
        return 2 if self.cfg else 1

    @property
    def tokens(self) -> int:
        return self.size**2

    @property
    def bytes_of_map(self) -> int:
        return self.halves * self.prev_size**2 * self.batch * self.vocabulary * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        rows = (self.halves + 1) * self.tokens
        return rows * self.batch * self.vocabulary * self.dtype.itemsize + self.bytes_of_map

    @property
    def strengths(self) -> tuple[float, ...]:
        return (0.5, 1.5, 0.75) if self.cfg else (0.5,)


_F32, _BF16, _F16 = torch.float32, torch.bfloat16, torch.float16
CASES = (
    *(Case(16, 13, 64, 4096, dtype) for dtype in (_F32, _BF16, _F16)),
    Case(16, 13, 64, 4096, _F32, cfg=True),
    *(Case(32, 24, 16, 4096, dtype) for dtype in (_F32, _BF16, _F16)),
    *(Case(64, 48, 4, 4096, dtype) for dtype in (_F32, _BF16, _F16)),
    Case(64, 48, 2, 64, _BF16, of="bitwise"),
    *(Case(size, prev, 1, 4096, _F32, of="VAR-256") for prev, size in pairwise(VAR_256)),
)
# Name, vocabulary, rows of a launch, top_k, top_p, standard deviation of the logits.
SAMPLING = (
    ("top_k and top_p", 4096, 16384, 900, 0.96, 3.0),
    ("top_k", 4096, 16384, 900, 0.0, 3.0),
    ("top_p", 4096, 16384, 0, 0.96, 3.0),
    ("neither", 4096, 16384, 0, 0.0, 3.0),
    ("top_k and top_p, nearly flat", 4096, 16384, 900, 0.96, 0.1),
    ("top_k and top_p, all equal", 4096, 16384, 900, 0.96, 0.0),
    ("bits", 2, 16384, 0, 0.0, 3.0),
)


def strip(case: Case, width: int, first: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of both scales and `out`, of one sample. Only the columns of the strip have values."""
    generator = torch.Generator().manual_seed(seed)
    made: list[Tensor] = []
    for rows in (case.halves * case.tokens, case.halves * case.prev_size**2, case.tokens):
        x = torch.empty(1, rows, case.vocabulary, dtype=case.dtype)
        x[..., first : first + width] = 3 * torch.randn(1, rows, width, generator=generator)
        made.append(x.view(-1, rows // (case.halves if len(made) < 2 else 1), case.vocabulary))
    logits, prev_logits, out = made
    return logits, prev_logits, out


def check(case: Case, logits: Tensor, prev_logits: Tensor, out: Tensor) -> float:
    """The largest error over the largest expected value; a wrong result is not counted."""
    operator = "guided_logits_cfg" if case.cfg else "guided_logits"
    sides = ((case.size,) * 2, (case.prev_size,) * 2)
    call = GuidedCall(
        operator, logits.double(), prev_logits.double(), *sides, case.strengths, Options(*OPTIONS), None
    )
    expected = reference.compute(call)
    error = ((out.double() - expected).abs().max() / expected.abs().max()).item()
    if not error <= _TOLERANCE[case.dtype]:
        raise RuntimeError(f"{case.name} in {case.dtype}: the executed kernel is wrong by {error:.2g}")
    return error


# Tokens of the strips of a block of the MMA engine that are executed, at most. What a block does once counts for each.
_TOKENS = 64 * 256


def count_cuda(case: Case, target: str) -> dict[str, Any]:
    """Some strips of columns in all their splits, planned as the whole step is."""
    sides = ((case.size,) * 2, (case.prev_size,) * 2)
    plan = cuda.plan(*sides, case.batch, case.vocabulary, case.dtype, sources=case.halves, target=target)
    strips = -(-case.vocabulary // plan.columns)
    items = strips * plan.splits * case.batch
    each = -(-items // plan.blocks)
    executed_strips = min(each, strips, _TOKENS // case.tokens)
    width = min(executed_strips * plan.columns, case.vocabulary)
    logits, prev_logits, out = (x[..., :width] for x in strip(case, width, 0))

    counts = Counts()
    chosen = plan.with_blocks(plan.splits)
    executed = cuda.guided(
        logits, prev_logits, out, case.strengths, sources=case.halves, target=target, counts=counts,
        choose=lambda call: chosen, size=sides[0], prev_size=sides[1],
    )  # fmt: skip
    error = check(case, logits, prev_logits, out)
    made = resources.of_ptx(cuda.ptx("guided.cu", target), executed.kernel.name)
    launch = Launched(
        plan.blocks, executed.threads, executed.shared_bytes, made,
        case.tokens * case.batch * case.vocabulary, case.bytes, case.bytes_of_map, False,
        items / plan.blocks / executed_strips,
    )  # fmt: skip
    return _row(
        case, counts, launch, target, error, str(plan).partition(";")[0], ("current", "previous", "out")
    )


def count_triton(case: Case, target: str, plan: Any = None) -> dict[str, Any]:
    """The programs of one strip of columns, planned as the whole step is, or as given."""
    from bench.ptx import triton
    from ssg_kernels._triton import launch as launcher

    sides = ((case.size,) * 2, (case.prev_size,) * 2)
    plan = plan or triton.planned(*sides, case.batch, case.vocabulary, case.dtype, target, case.halves)
    # As in the whole step, the vocabulary is a multiple of 16, for which Triton compiles.
    width = min(math.lcm(plan.block_v, 16), case.vocabulary)
    logits, prev_logits, out = (x[..., :width] for x in strip(case, width, 0))
    operator = "guided_logits_cfg" if case.cfg else "guided_logits"
    made = GuidedCall(operator, logits, prev_logits, *sides, case.strengths, Options(*OPTIONS), out)
    choose = triton.one_strip(plan, case.batch, case.vocabulary, width)
    (launched,) = triton.launches(lambda: launcher.guided(made), target, choose)
    counts = Counts()
    triton.run(launched, out, counts=counts)
    error = check(case, logits, prev_logits, out)
    made_of = resources.of_cubin(launched.cubin)
    launch = Launched(
        plan.programs, launched.threads, launched.shared_bytes, made_of,
        case.tokens * case.batch * case.vocabulary, case.bytes, case.bytes_of_map, "wgmma" in launched.ptx,
    )  # fmt: skip
    return _row(case, counts, launch, target, error, str(plan), ("current", "previous", "out"))


def _row(
    case: Case, counts: Counts, launch: Launched, target: str, error: float, plan: str, tensors: Sequence[str]
) -> dict[str, Any]:
    sectors = sum(n for name, n in counts.sectors.items() if name.split()[0] in tensors)
    return {
        "step": case.name,
        "of": case.of,
        "batch": case.batch,
        "vocabulary": case.vocabulary,
        "dtype": str(case.dtype).removeprefix("torch."),
        "cfg": case.cfg,
        **model.row(counts, launch, rates.CARDS[target], sectors),
        "error": float(f"{error:.2g}"),
        "plan": plan,
    }


def count_sampling(
    kind: tuple[str, int, int, int, float, float], target: str, backend: str
) -> dict[str, Any]:
    """Warp instructions of a row, from a few rows."""
    name, vocabulary, rows, top_k, top_p, deviation = kind
    generator = torch.Generator().manual_seed(0)
    few = 128 if vocabulary == 2 else 2
    logits = deviation * torch.randn(1, few, vocabulary, generator=generator)
    uniform = torch.rand(1, few, generator=generator)
    counts = Counts()
    if backend == "cuda":
        tokens = cuda.sample(logits, uniform, 1.0, top_k=top_k, top_p=top_p, target=target, counts=counts)
    else:
        from bench.ptx import triton

        tokens = triton.sample(logits, uniform, 1.0, top_k, top_p, target, counts=counts)
    if not torch.equal(tokens, reference.sample(logits, uniform, top_k, top_p)):
        raise RuntimeError(f"sampling with {name}: the executed kernel draws other tokens than the reference")
    card = rates.CARDS[target]
    cycles = max(
        counts.issued / rates.ISSUE, counts.instructions["float64"] / card.float64, counts.wavefronts
    )
    return {
        "kind": name,
        "vocabulary": vocabulary,
        "rows": rows,
        "warp_instructions_per_row": round(counts.issued / few, 1),
        "float64_per_row": round(counts.instructions["float64"] / few, 1),
        "wavefronts_per_row": round(counts.wavefronts / few, 1),
        "barriers_per_block": round(counts.barriers / counts.blocks, 1),
        "counted_us": round(cycles * rows / few / card.multiprocessors / card.clock * 1e6, 1),
        "reading_us": round(4 * vocabulary * rows / card.copy * 1e6, 1),
    }


def versions(backend: str) -> dict[str, str]:
    found = {name: metadata.version(name) for name in ("numpy", "torch")}
    if backend == "triton":
        found["triton"] = metadata.version("triton")
    else:
        report = subprocess.run(
            [cuda.compiler() or "nvcc", "--version"], capture_output=True, text=True, check=True
        )
        found["nvcc"] = report.stdout.split("release ")[1].split(",")[0]
    git = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {**found, "commit": git.stdout.strip()}


def count(case: Case, target: str, backend: str) -> dict[str, Any]:
    return count_cuda(case, target) if backend == "cuda" else count_triton(case, target)


def document(target: str, backend: str) -> dict[str, Any]:
    card = rates.CARDS[target]
    rows, sampling = [], []
    with tqdm(
        total=len(CASES) + len(SAMPLING), desc=f"{backend}, {target}", disable=not sys.stderr.isatty()
    ) as bar:
        for case in CASES:
            bar.set_postfix_str(f"{case.name} {str(case.dtype)[6:]}")
            rows.append(count(case, target, backend))
            bar.update()
        for kind in SAMPLING:
            bar.set_postfix_str(f"sampling, {kind[0]}")
            sampling.append(count_sampling(kind, target, backend))
            bar.update()
    facts = {"backend": backend, "target": target, "card": card.name, "versions": versions(backend)}
    return {**facts, "rows": rows, "sampling": sampling}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Both tables, in Markdown."""
    heads = [
        "step",
        "batch",
        "dtype",
        "instructions",
        "moves",
        "wavefronts",
        "over fewest",
        "sectors over fewest",
    ]
    yield from _head([*heads, "counted µs", "copy µs", "binds"])
    for row in found["rows"]:
        dtype = (
            f"{row['dtype']}{', cfg' if row['cfg'] else ''}{', V = 64' if row['vocabulary'] == 64 else ''}"
        )
        cells = [row["step"], row["batch"], dtype]
        cells += [f"{row[name]:.0f}" for name in ("instructions_per_output", "moves_per_output")]
        cells += [f"{row['wavefronts_per_32']:.1f}"]
        cells += [f"{row[name]:.2f}" for name in ("wavefronts_over_fewest", "sectors_over_fewest")]
        yield _line([*cells, f"{row['counted_us']:.1f}", f"{row['copy_us']:.1f}", row["binds"]])
    scales = [row["counted_us"] for row in found["rows"] if row["of"] == "VAR-256"]
    yield f"\nThe ten scales of VAR-256, one sample: {sum(scales):.0f} µs without launches\n"
    names = ("warp_instructions_per_row", "float64_per_row", "wavefronts_per_row", "counted_us", "reading_us")
    yield from _head(
        ["sampling", "V", "warp instructions a row", "float64", "wavefronts", "counted µs", "reading µs"]
    )
    for row in found["sampling"]:
        yield _line([row["kind"], row["vocabulary"], *[f"{row[name]:.0f}" for name in names]])


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _head(cells: Sequence[str]) -> tuple[str, str]:
    return _line(cells), _line(["---"] * len(cells))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.counted", description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=list(rates.CARDS), default="sm_90", help="which GPU")
    parser.add_argument("--backend", choices=("cuda", "triton"), default="cuda", help="whose kernels")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    given = parser.parse_args(arguments)
    found = document(given.target, given.backend)
    print("\n".join(lines(found)))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
