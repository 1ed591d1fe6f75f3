"""How well a backend's plan ranks its candidates: every candidate of a step, by the model and by executed counts.

    python -m bench.ptx.ranking --target sm_90 --backend triton --json FILE

A step agrees if the plan chooses the candidate with the least counted time, or one within 2 % of it. Candidates that
the plan expects to take more than 2.5 times as long as its choice are not executed.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from bench import counted
from bench.cases import VAR_256
from bench.counted import Case
from bench.ptx import cuda, rates
from bench.sampling import INFINITY_1M, PIXELS_1024, VAR_512

CLOSE = 1.02
HOPELESS = 2.5

# A candidate: what it is, its time by the plan's model in microseconds, and what counts it.
Candidate = tuple[str, float, Callable[[], dict[str, Any]]]


def triton_candidates(case: Case, target: str) -> Iterator[Candidate]:
    """The plan's candidates, the one that it chooses first."""
    from ssg_kernels._triton import plan, targets

    card, sides = targets.named(target), ((case.size,) * 2, (case.prev_size,) * 2)
    step = plan.Step(*sides, case.batch, case.vocabulary, case.dtype.itemsize, case.halves)
    predicted = [(plan.estimate(each, step, card).rank * 1e6, each) for each in plan.candidates(step, card)]
    for seconds, each in sorted(predicted, key=lambda pair: pair[0]):
        name = f"{each.form} {each.block_m}x{each.block_v}, {each.warps} warps"
        yield name, seconds, functools.partial(counted.count_triton, case, target, each)


def cuda_candidates(case: Case, target: str) -> Iterator[Candidate]:
    """The best plan of every tile."""
    sides = ((case.size,) * 2, (case.prev_size,) * 2)
    call = cuda.call_of(*sides, case.batch, case.vocabulary, case.dtype, sources=case.halves, target=target)
    for plan in call.candidates():
        name = str(plan).partition(";")[0]
        seconds = plan.cycles / rates.CARDS[target].clock
        yield name, seconds * 1e6, functools.partial(counted.count_cuda, case, target, plan)


BACKENDS = {"cuda": cuda_candidates, "triton": triton_candidates}


def cases() -> Iterator[Case]:
    """The steps of the square schedules of the supported models, with so many samples that they fill a card."""
    schedules = ((VAR_256, 4096), (VAR_512, 4096), (PIXELS_1024, 4096), (INFINITY_1M, 64))
    steps = {(m, n, vocabulary) for sides, vocabulary in schedules for n, m in pairwise(sides)}
    for size, prev_size, vocabulary in sorted(steps):
        batch = max(1, min(64, 16384 // size**2)) * 4096 // vocabulary
        for dtype in (torch.float32, torch.bfloat16):
            yield Case(size, prev_size, batch, vocabulary, dtype)


def rank(case: Case, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """The counted times of the candidates, and what the plan's choice costs over the best of them."""
    rows = []
    least = min(predicted for _, predicted, _ in candidates)
    for name, predicted, count in candidates:
        if predicted > HOPELESS * least:
            continue
        row = count()
        rows.append(
            {
                "plan": name,
                "predicted_us": round(predicted, 1),
                "counted_us": row["counted_us"],
                "binds": row["binds"],
            }
        )
    best = min(row["counted_us"] for row in rows)
    chosen = min(rows, key=lambda row: row["predicted_us"])
    return {
        "step": case.name,
        "batch": case.batch,
        "vocabulary": case.vocabulary,
        "dtype": str(case.dtype).removeprefix("torch."),
        "cost": round(chosen["counted_us"] / best, 3) if best else 1.0,
        "candidates": rows,
    }


def summary(found: Sequence[dict[str, Any]]) -> str:
    costs = [row["cost"] for row in found]
    worst = max(found, key=lambda row: row["cost"])
    agree = sum(cost <= CLOSE for cost in costs)
    return (
        f"The plan's choice is the best by executed counts in {agree} of {len(costs)} steps. The worst one takes "
        f"{worst['cost']:.2f} times as long as the best: {worst['step']}, {worst['dtype']}, V = {worst['vocabulary']}."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ptx.ranking", description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=list(rates.CARDS), default="sm_90", help="which GPU")
    parser.add_argument("--backend", choices=list(BACKENDS), default="triton", help="whose plan")
    parser.add_argument("--steps", nargs="+", metavar="M->N", help="only these steps (default: all)")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    given = parser.parse_args(arguments)
    found = []
    picked = [case for case in cases() if given.steps is None or case.name in given.steps]
    for case in tqdm(picked, disable=not sys.stderr.isatty()):
        found.append(rank(case, list(BACKENDS[given.backend](case, given.target))))
        if given.json:
            facts = {
                "backend": given.backend,
                "target": given.target,
                "versions": counted.versions(given.backend),
            }
            given.json.write_text(
                json.dumps({**facts, "summary": summary(found), "steps": found}, indent=1) + "\n"
            )
    print(summary(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
