"""`python -m ssg_kernels tour`: runs SSG over VAR's ten scales on random logits and compares it with plain PyTorch."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from ssg_kernels import SSG, reference
from ssg_kernels._accuracy import RELATIVE
from ssg_kernels.info import backends

SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # VAR, 256 x 256 pixels
AGREEMENT = RELATIVE[torch.float32]


@dataclass(frozen=True)
class Options:
    beta: float = 0.5
    prior: str = "dse"
    interpolation: str = "bilinear"
    rescale: bool = False
    batch: int = 1
    vocabulary: int = 4096
    repeats: int = 15
    seed: int = 0


@dataclass
class Scale:
    """One row of the table: the milliseconds of every repeat, and the error relative to the largest value."""

    side: int
    beta: float
    guided: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    difference: float = 0.0


def run(options: Options) -> int:
    """Prints the table. Returns 1 if a scale differs from the reference by more than float32 should, else 0."""
    torch.manual_seed(options.seed)
    shapes = [(options.batch, n * n, options.vocabulary) for n in SCALES]
    logits = [4 * torch.randn(shape) for shape in shapes]
    exact = [
        naive(options, k, [x.double() for x in logits[max(k - 1, 0) : k + 1]]) for k in range(len(SCALES))
    ]
    ssg = SSG(SCALES, options.beta, "linear", options.prior, options.interpolation, options.rescale)
    rows = [Scale(n, options.beta * m) for n, m in zip(SCALES, ssg.multipliers, strict=True)]
    with torch.inference_mode():
        # The first round is not timed: it warms up, and its results are checked.
        for repeat in tqdm(range(options.repeats + 1), unit="generation", leave=False, disable=None):
            for k, row in enumerate(rows):
                start = time.perf_counter()
                guided = ssg(logits[k])
                between = time.perf_counter()
                naive(options, k, logits[max(k - 1, 0) : k + 1])
                end = time.perf_counter()
                if repeat:
                    row.guided.append(1e3 * (between - start))
                    row.plain.append(1e3 * (end - between))
                else:
                    row.difference = ((guided - exact[k]).abs().max() / exact[k].abs().max()).item()
    print("\n".join(table(options, rows)))
    worst = max(row.difference for row in rows)
    if worst > AGREEMENT:
        print(
            f"\nThe guided logits are wrong: the error is {worst:.1e} of the largest value, {AGREEMENT:.0e} is allowed."
        )
        return 1
    print(f"\nThe guided logits agree with the reference in float64 to {worst:.1e} of the largest value.")
    return 0


def naive(options: Options, k: int, logits: list[Tensor]) -> Tensor:
    """Scale k in plain PyTorch, from the logits of scales k - 1 and k, or for k = 0 from its own logits alone."""
    if k == 0:
        return logits[0].clone()
    n, prev = SCALES[k], SCALES[k - 1]
    beta = options.beta * (1 - k / len(SCALES))
    form = (options.prior, options.interpolation, options.rescale)
    return reference.guided_logits(logits[1], logits[0], (n, n), (prev, prev), beta, *form)


def table(options: Options, rows: list[Scale]) -> list[str]:
    prior = options.prior + (", rescaled" if options.rescale else "")
    cpu = next(backend for backend in backends() if backend.name == "cpu")
    lines = [
        f"Scaled spatial guidance over VAR's {len(rows)} scales: batch {options.batch}, vocabulary "
        f"{options.vocabulary}, float32, {options.repeats} generations",
        f"prior {prior}, {options.interpolation}; beta {options.beta:g}, decaying linearly",
        f"{cpu.note}; {torch.get_num_threads()} threads",
        "",
        f"{'scale':>5} {'grid':>7} {'beta':>6} {'SSG ms':>10} {'plain PyTorch ms':>17} {'speed-up':>9}",
    ]
    total_guided = total_plain = 0.0
    for k, row in enumerate(rows, 1):
        guided, plain = statistics.median(row.guided), statistics.median(row.plain)
        total_guided += guided
        total_plain += plain
        grid = f"{row.side}x{row.side}"
        beta, gain = (f"{row.beta:.3g}", f"{plain / guided:.1f}x") if k > 1 else ("-", "-")
        lines.append(f"{k:>5} {grid:>7} {beta:>6} {guided:>10.3f} {plain:>17.3f} {gain:>9}")
    gain = f"{total_plain / total_guided:.1f}x"
    lines.append(f"{'total':>5} {'':>7} {'':>6} {total_guided:>10.3f} {total_plain:>17.3f} {gain:>9}")
    lines.append(
        "The first scale passes through unguided. Plain PyTorch: interpolate, DCT, splice, inverse DCT."
    )
    return lines
