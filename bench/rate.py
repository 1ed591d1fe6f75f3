"""The rate of the CPU kernel as a share of torch.mm's (``python -m bench.rate``).

Work counts as the multiply-adds of two dense terms with even/odd halves, (N n^2 + N^2 n) V B, whichever form the
kernel takes. torch.mm multiplies two float32 matrices of 1024 x 1024 in the same process, after every sample. A share
is the median over the samples. Every step is timed with ``out=`` and with a new output. The last column is what the
kernel multiplies and adds, as a part of that work.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import ssg_kernels

from . import cases

SIDE = 1024  # of torch.mm
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def nominal_multiply_adds(case: cases.Case) -> int:
    (prev_h, prev_w), (h, w) = case.prev_size, case.size
    return (h * prev_h * prev_w + h * w * prev_w) * case.vocab * case.batch


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def interleaved(calls: Sequence[Callable[[], object]], budget: float, least: int = 5) -> list[list[float]]:
    """Seconds of every call in turn, again and again for about ``budget`` seconds, ``least`` times or more."""
    for call in calls:
        call()
    rounds: list[list[float]] = []
    end = time.perf_counter() + budget
    while len(rounds) < least or time.perf_counter() < end:
        rounds.append([seconds(call) for call in calls])
    return rounds


def step(case: cases.Case, logits: Tensor, prev_logits: Tensor, out: Tensor | None) -> Callable[[], object]:
    sizes = (case.size, case.prev_size)
    if case.cfg:
        strengths = (cases.BETA, cases.CFG, cases.PREV_CFG)
        return lambda: ssg_kernels.guided_logits_cfg(logits, prev_logits, *sizes, *strengths, out=out)
    return lambda: ssg_kernels.guided_logits(logits, prev_logits, *sizes, cases.BETA, out=out)


@torch.inference_mode()
def measure(case: cases.Case, dtype: torch.dtype, budget: float) -> str:
    ((logits, prev_logits),) = cases.make_inputs(case, dtype)
    left, right, product = (torch.rand(SIDE, SIDE) for _ in range(3))
    calls = [
        step(case, logits, prev_logits, torch.empty_like(logits[: case.batch])),
        step(case, logits, prev_logits, None),
        lambda: torch.mm(left, right, out=product),
    ]
    rounds = interleaved(calls, budget)
    work = nominal_multiply_adds(case)
    columns = []
    for i in range(2):
        times = [r[i] for r in rounds]
        shares = [work / r[i] / (SIDE**3 / r[2]) for r in rounds]
        fastest = work / min(times) / (SIDE**3 / min(r[2] for r in rounds))
        columns.append(
            f"{min(times) * 1e3:9.3f} {statistics.median(times) * 1e3:9.3f} ms "
            f"{statistics.median(shares):6.2f} {fastest:6.2f}"
        )
    kernels = importlib.import_module("ssg_kernels._C")
    _, executed = kernels.cpu_plan(case.size, case.prev_size, "dse", "bilinear")
    columns.append(f"{executed * case.vocab * case.batch / work:5.2f}")
    return "  |  ".join(columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--cases", nargs="*", help="patterns of case names; all cases by default")
    parser.add_argument("--dtypes", nargs="*", choices=list(DTYPES), default=["float32"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing, per step and dtype")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{arguments.threads} threads; minimum and median time, share of torch.mm's rate by medians and by minima"
    )
    print(f"{'':36}{'out= given':^35}  |  {'new output':^35}  |  work")
    for case in cases.select(arguments.cases):
        for name in arguments.dtypes:
            figures = measure(case, DTYPES[name], arguments.seconds)
            print(f"{case.name:26}{name:10}{figures}", flush=True)


if __name__ == "__main__":
    main()
