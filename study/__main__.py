"""`python -m study`: measures what guidance does to the demo model. It resumes after an interruption."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ssg_kernels.demo import weights
from ssg_kernels.evaluate.ranks import Ranks
from study import report
from study.design import Design
from study.record import Record
from study.run import run


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m study",
        description="Measures what guidance does to the demo model, in one process or under torchrun. Resumes after "
        "an interruption.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/demo/study"), help="folder of the evaluations, one a stage"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs/study"), help="folder for the JSON, the table and the pictures"
    )
    parser.add_argument("--device", default="auto", help="auto: this rank's GPU, or the CPU")
    arguments = parser.parse_args(argv)
    design = Design()
    with Ranks() as ranks:
        device = ranks.device(arguments.device)
        record = Record(arguments.work, weights.load(device=device), design.reference, ranks, device)
        found = run(record, design)
    if found is None:
        return 0
    report.write(found, arguments.out)
    print("\n".join([*report.table(found), "", *report.front(found)]))
    print(f"Written: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
