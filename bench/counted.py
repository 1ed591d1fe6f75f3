"""What the GPU kernels cost, counted by executing what the compilers made of them, on a machine without a GPU.

    python -m bench.counted --target sm_90 --backend cuda --json counted.json

Executes some blocks of each step, checks their result against the reference, and counts. `counted_us` is the largest of
what can bind, by the rates of bench/ptx/rates.py, and what no other block hides: a model of the time, no measurement.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from bench.ptx import cuda, model, rates, steps
from bench.ptx.case import Case
from bench.ptx.counts import Counts
from bench.ptx.model import Launched
from bench.ptx.steps import Executed
from bench.schedules import VAR_256
from ssg_kernels import reference

ROOT = Path(__file__).resolve().parent.parent


def square(prev: int, side: int, *rest: Any, **named: Any) -> Case:
    return Case((side, side), (prev, prev), *rest, **named)


_F32, _BF16, _F16 = torch.float32, torch.bfloat16, torch.float16
# Coarse side, side, samples.
_STEPS = ((13, 16, 64), (24, 32, 16), (48, 64, 4))
CASES = (
    *(
        square(*step, 4096, dtype, cfg=cfg)
        for step in _STEPS
        for dtype, cfg in ((_F32, False), (_BF16, False), (_F16, False), (_F32, True))
    ),
    square(48, 64, 2, 64, _BF16, of="bitwise"),
    *(
        square(*step, 4095, dtype, cfg=cfg, of="unaligned")
        for step in _STEPS
        for dtype, cfg in ((_F32, False), (_BF16, False), (_F32, True))
    ),
    *(square(prev, size, 1, 4096, _F32, of="VAR-256") for prev, size in pairwise(VAR_256)),
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


# Tokens of the strips that a block of the MMA engine is counted for, at most. What a block does once counts for each.
_TOKENS = 64 * 256


@dataclass(frozen=True)
class Counted:
    """What executed blocks took, and the launch of which they are a part."""

    case: Case
    target: str
    plan: str
    executed: Executed
    launch: Launched

    @property
    def times(self) -> model.Times:
        return model.times(self.executed.counts, self.launch, rates.CARDS[self.target], self._sectors)

    @property
    def _sectors(self) -> int:
        counted = self.executed.counts.sectors
        return sum(n for name, n in counted.items() if name.split()[0] in ("current", "previous", "out"))

    def row(self) -> dict[str, Any]:
        case, found = self.case, self.executed
        return {
            "step": case.name,
            "of": case.of,
            "batch": case.batch,
            "vocabulary": case.vocabulary,
            "dtype": str(case.dtype).removeprefix("torch."),
            "cfg": case.cfg,
            **model.row(found.counts, self.launch, rates.CARDS[self.target], self._sectors),
            "error": float(f"{found.error:.2g}"),
            "plan": self.plan,
        }


def count_cuda(case: Case, target: str, plan: Any = None) -> Counted:
    """Some strips of columns in all their splits, planned as the whole step is, or as given."""
    plan = plan or cuda.plan(case, target)
    strips = -(-case.vocabulary // plan.columns)
    items = strips * plan.splits * case.batch
    counted = min(-(-items // plan.blocks), strips, max(1, _TOKENS // case.tokens))
    found = steps.cuda_strips(case, target, plan, counted)
    launch = _launched(case, found, plan.blocks, items / plan.blocks / counted)
    return Counted(case, target, str(plan).partition(";")[0], found, launch)


def count_triton(case: Case, target: str, plan: Any = None) -> Counted:
    """The programs of one strip of columns, planned as the whole step is, or as given."""
    from bench.ptx import triton

    plan = plan or triton.planned(case, target)
    found = steps.triton_strip(case, target, plan)
    return Counted(case, target, str(plan), found, _launched(case, found, plan.programs, 1.0))


def _launched(case: Case, found: Executed, blocks: int, rounds: float) -> Launched:
    outputs = case.tokens * case.batch * case.vocabulary
    return Launched(
        blocks, found.threads, found.shared_bytes, found.resources, outputs, case.bytes, case.bytes_of_map,
        found.uses_wide_products, rounds,
    )  # fmt: skip


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
        tokens = cuda.sample(
            logits, uniform, 1.0, top_k=top_k, top_p=top_p, target=target, counts=counts, checks=False
        )
    else:
        from bench.ptx import triton

        tokens = triton.sample(logits, uniform, 1.0, top_k, top_p, target, counts=counts, checks=False)
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
    return (count_cuda(case, target) if backend == "cuda" else count_triton(case, target)).row()


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
