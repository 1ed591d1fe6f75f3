"""Where the time of a small call goes (``python -m bench.small``).

Three ways to the result: ``out=`` given; a new result each time, in memory that the allocator has had before; and new
results that are all kept, in pages that nobody has touched. Median µs, float32, the operator with a float beta.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch

import ssg_kernels  # noqa: F401  # registers the operators

from . import cases, rate

STEPS = ((1, 2), (5, 6), (13, 16))
VOCABULARIES = (512, 4096)
KEPT_BYTES = 200 << 20
MOST_KEPT = 400


def median(call: Callable[[], object], budget: float) -> float:
    return statistics.median(seconds for (seconds,) in rate.interleaved([call], budget)) * 1e6


def median_kept(call: Callable[[], torch.Tensor], result_bytes: int) -> float:
    kept: list[torch.Tensor] = []
    count = max(8, min(MOST_KEPT, KEPT_BYTES // result_bytes))
    return statistics.median(rate.seconds(lambda: kept.append(call())) for _ in range(count)) * 1e6


@torch.inference_mode()
def row(n: int, m: int, vocabulary: int, threads: int, budget: float) -> str:
    """A line of the table."""
    torch.set_num_threads(threads)
    case = cases.square("small", "", n, m, vocab=vocabulary)
    ((logits, prev_logits),) = cases.make_inputs(case, torch.float32)
    arguments = (logits, prev_logits, case.size, case.prev_size, cases.BETA)
    out = torch.empty_like(logits)
    new, given = torch.ops.ssg.guided_logits.float, torch.ops.ssg.guided_logits.float_out
    figures = (
        median(lambda: given(*arguments, out=out), budget),
        median(lambda: new(*arguments), budget),
        median_kept(lambda: new(*arguments), case.output_bytes(torch.float32)),
    )
    return f"| {n} → {m}, V = {vocabulary} | {threads} | " + " | ".join(f"{us:.3g}" for us in figures) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=0.3, help="of timing, for each figure")
    arguments = parser.parse_args()
    print("| step | threads | `out=` | new result | new result, untouched pages |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for n, m in STEPS:
        for vocabulary in VOCABULARIES:
            for threads in arguments.threads:
                print(row(n, m, vocabulary, threads, arguments.seconds), flush=True)


if __name__ == "__main__":
    main()
