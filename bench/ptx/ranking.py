"""How well a backend's plan ranks its candidates: every candidate of a step, by the model and by executed counts.

    python -m bench.ptx.ranking --target sm_90 --backend triton --json FILE

A step agrees if the plan chooses the candidate with the least counted time, or one within 2 % of it, the 2 us that a
launch takes included. Candidates that the plan expects to take more than 2.5 times as long as the best one are not
executed.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from bench import counted
from bench.counted import Counted
from bench.ptx import cuda, rates
from bench.ptx.case import Case
from bench.schedules import AUDIO, TOKENFLOW, VAR_256, VAR_512, VAR_1024, Size, infinity, square

CLOSE = 1.02
HOPELESS = 2.5

LAUNCH = 2.0  # us


@dataclass(frozen=True)
class Candidate:
    name: str
    predicted: float  # us by the plan's model
    count: Callable[[], Counted]
    chosen: bool


def triton_candidates(case: Case, target: str) -> Iterator[Candidate]:
    """The plan's candidates."""
    from bench.ptx import triton
    from ssg_kernels._triton import cost, plan, targets

    card = targets.named(target)
    step = triton.step_of(case)
    predicted = [(cost.estimate(each, step, card).rank * 1e6, each) for each in plan.candidates(step, card)]
    chosen = plan.make_plan(step, card)
    for time, each in sorted(predicted, key=lambda pair: pair[0]):
        name = f"{each.form} {each.block_m}x{each.block_v}, {each.warps} warps"
        name += ", whole map" if each.whole_map else ""
        count = functools.partial(counted.count_triton, case, target, each)
        yield Candidate(name, time, count, each == chosen)


def cuda_candidates(case: Case, target: str) -> Iterator[Candidate]:
    """The best plan of every tile."""
    call = cuda.call_of(case, target)
    chosen = str(call.plan())
    for plan in call.candidates():
        name = str(plan).partition(";")[0]
        time = plan.cycles / rates.CARDS[target].clock * 1e6
        count = functools.partial(counted.count_cuda, case, target, plan)
        yield Candidate(name, time, count, str(plan) == chosen)


BACKENDS = {"cuda": cuda_candidates, "triton": triton_candidates}


# Logits that fill a card: 64 samples of 16x16 tokens in 4096 columns.
FULL = 64 * 16**2 * 4096
_BOTH = (torch.float32, torch.bfloat16)


def schedules() -> Iterator[tuple[Sequence[Size], int, tuple[torch.dtype, ...]]]:
    """The scales of the supported models, their vocabularies and dtypes. Larger vocabularies make more equal strips."""
    for sides in (VAR_256, VAR_512, VAR_1024, TOKENFLOW):
        yield square(sides), 4096, _BOTH
    yield infinity("1.0"), 64, _BOTH
    yield [(1, n) for n in AUDIO], 1024, (torch.float32,)
    for ratio in ("1.5", "3.0"):
        yield infinity(ratio), 64, (torch.bfloat16,)
    yield [(w, h) for h, w in infinity("2.0")], 64, (torch.bfloat16,)


def cases() -> Iterator[Case]:
    """Every step of every schedule once, of one sample and of so many that they fill a card."""
    seen = set()
    for sizes, vocabulary, dtypes in schedules():
        for prev_size, size in pairwise(sizes):
            full = max(1, FULL // (math.prod(size) * vocabulary))
            for dtype in dtypes:
                for batch in sorted({1, full}):
                    case = Case(size, prev_size, batch, vocabulary, dtype)
                    if case not in seen:
                        seen.add(case)
                        yield case


def rank(case: Case, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """The counted times of the candidates, and what the plan's choice costs over the best of them."""
    rows: list[dict[str, Any]] = []
    least = min(each.predicted for each in candidates)
    cost, best = 0.0, math.inf
    for each in candidates:
        if each.predicted > HOPELESS * least and not each.chosen:
            continue
        times = each.count().times
        best = min(best, times.counted + LAUNCH)
        if each.chosen:
            cost = times.counted + LAUNCH
        rows.append(
            {
                "plan": each.name,
                "chosen": each.chosen,
                "predicted_us": round(each.predicted, 2),
                "counted_us": round(times.counted, 2),
                "binds": times.binds,
            }
        )
    return {
        "step": case.name,
        "batch": case.batch,
        "vocabulary": case.vocabulary,
        "dtype": str(case.dtype).removeprefix("torch."),
        "cost": round(cost / best, 3),
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


def document(backend: str, target: str, found: Sequence[dict[str, Any]]) -> str:
    """JSON, a line for each step."""
    facts: dict[str, Any] = {"backend": backend, "target": target, "card": rates.CARDS[target].name}
    facts |= {"versions": counted.versions(backend), "summary": summary(found)}
    lines = ",\n".join(f"  {json.dumps(step)}" for step in found)
    return f'{json.dumps(facts, indent=1)[:-2]},\n "steps": [\n{lines}\n ]\n}}\n'


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
            given.json.write_text(document(given.backend, given.target, found))
    print(summary(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
