"""``python -m bench``: times every contender on every case, prints tables, and writes JSON and a picture."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from . import machine, memory, overhead, plot, report
from .baselines import CONTENDERS
from .cases import CASES, DTYPES, QUICK, select
from .run import run_case
from .timing import Budget

DEFAULT_OUT = machine.ROOT / "bench" / "results" / "local.json"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--cases", nargs="+", metavar="NAME", help="case names or shell patterns (default: all)"
    )
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--quick", action="store_true", help="five cases, short budgets, no torch.compile")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave out the contenders under torch.compile"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory of a call")
    parser.add_argument("--cold", action="store_true", help="also measure with inputs that are not cached")
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="timed seconds per contender and case"
    )
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's own choice)")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="JSON file; the picture goes beside it")
    parser.add_argument("--list", action="store_true", help="list cases and contenders, and measure nothing")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.cases = arguments.cases or list(QUICK)
        arguments.no_compile = True
    try:
        arguments.cases = select(arguments.cases)
    except ValueError as error:
        parser.error(str(error))
    return arguments


class _Progress:
    """Shows on the bar how many samples of a case are done.

    It redraws at most twice a second, so that the terminal does not disturb the measurement.
    """

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar
        self.shown = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.shown > 0.5:
            self.bar.set_postfix_str(f"{done}/{total} samples")
            self.shown = now


def _budget(arguments: argparse.Namespace) -> Budget:
    seconds = arguments.budget or (0.1 if arguments.quick else Budget.seconds)
    return Budget(seconds=seconds, warmup=min(Budget.warmup, seconds))


def write(document: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if every result of ours is exact, else 1."""
    arguments = _arguments(argv)
    if arguments.list:
        for case in CASES:
            print(f"{case.name:20} {case.label}, V = {case.vocab}")
        print()
        for contender in CONTENDERS:
            print(f"{contender.name:20} {contender.describe}")
        return 0
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    budget = _budget(arguments)
    document: dict[str, Any] = {
        "format": 1,
        "run": {
            "date": machine.now(),
            **machine.commit(),
            "quick": arguments.quick,
            "budget_s": budget.seconds,
            "warmup_s": budget.warmup,
            "block_us": budget.block * 1e6,
            "min_samples": budget.min_samples,
            "max_samples": budget.max_samples,
        },
        "machine": machine.machine(),
        "versions": machine.versions(),
        "contenders": {contender.name: contender.describe for contender in CONTENDERS},
        "results": [],
        "overhead": [],
        "memory": [],
    }
    if not machine.kernel_in_use():
        print(
            'The compiled kernel is not in use: "ours" is the reference behind the operator.', file=sys.stderr
        )
    work = [
        (case, dtype, cold)
        for dtype in arguments.dtypes
        for case in arguments.cases
        for cold in ((False, True) if arguments.cold else (False,))
    ]
    with tqdm(total=len(work), unit="case", dynamic_ncols=True) as bar:
        for case, dtype, cold in work:
            title = f"{case.label}, {dtype}{', cold' if cold else ''}"
            bar.set_description(title)
            result = run_case(
                case,
                DTYPES[dtype],
                budget=budget,
                cold=cold,
                compile_too=not arguments.no_compile,
                progress=_Progress(bar),
            )
            document["results"].append(result)
            # Written after every case, so that an interrupted run keeps its results.
            write(document, arguments.out)
            tqdm.write(f"\n{title} ({result['bytes'] / 1e6:.2f} MB)")
            tqdm.write("\n".join(report.contenders_table(result)))
            bar.update()
    document["overhead"] = overhead.measure_overhead(budget)
    if not arguments.no_memory:
        pairs = [(case, dtype) for dtype in arguments.dtypes for case in arguments.cases]
        for case, dtype in tqdm(pairs, unit="case", desc="peak memory", dynamic_ncols=True):
            document["memory"] += memory.measure(case, dtype, torch.get_num_threads())
    document["run"]["load_average_at_end"] = machine.machine()["load_average"]
    write(document, arguments.out)
    for table in (report.memory_table, report.overhead_table, report.summary_table, report.notes):
        print()
        print("\n".join(table(document)))
    picture = arguments.out.with_suffix(".png")
    try:
        plot.draw(document, picture)
    except ImportError as error:
        print(f"no picture: {error}", file=sys.stderr)
    else:
        print(f"\n{arguments.out}\n{picture}")
    mine = [
        row
        for result in document["results"]
        for row in result["contenders"]
        if row["name"].startswith("ours")
    ]
    return 0 if all(row["verdict"] == "exact" for row in mine) else 1


if __name__ == "__main__":
    sys.exit(main())
