"""`python -m study`: measures what guidance does to the demo model. It resumes after an interruption."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ssg_kernels.demo import weights
from study import report
from study.design import Design
from study.record import Record
from study.run import run


def main(argv: Sequence[str] | None = None) -> int:
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(
        prog="python -m study",
        description="Measures what guidance does to the demo model. Resumes after an interruption.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/demo/study.jsonl"), help="file that keeps the measured cells"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs/study"), help="folder for the JSON, the table and the pictures"
    )
    parser.add_argument("--device", default=default, help="device to generate on")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one per core on a CPU, else 1")
    arguments = parser.parse_args(argv)
    workers = arguments.workers or (_cores() if arguments.device == "cpu" else 1)
    design = Design()
    models = weights.load(device=arguments.device)
    with Record(arguments.work, models, design.reference, workers) as record:
        found = run(record, design)
    report.write(found, arguments.out)
    print("\n".join([*report.table(found), "", *report.front(found)]))
    print(f"Written: {arguments.out}")
    return 0


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
