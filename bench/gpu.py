"""``python -m bench.gpu``: times the step on a GPU against what PyTorch offers and against a copy of its bytes.

Calls are recorded into CUDA graphs. The cold time is that of a graph whose calls rotate over so many inputs and
outputs that these exceed the second-level cache several times. The hot time uses one set, because at small scales the
head of the model leaves its logits in the cache. The host time is the time that the host spends in a call.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from ssg_kernels import SSG
from ssg_kernels._torch import backends

from . import check, machine, recordings, report, summary
from .baselines import Contender
from .cases import BETA, DTYPES, Case, make_inputs, square
from .gpu_contenders import CONTENDERS
from .recordings import Recording
from .schedules import VAR_256
from .timing import Budget, Inputs

CASES: tuple[Case, ...] = (
    square("var256-13-16-b64", "VAR-256", 13, 16, batch=64),
    square("var512-24-32-b16", "VAR-512", 24, 32, batch=16),
    square("1024px-48-64-b4", "1024px", 48, 64, batch=4),
    square("bitwise-48-64-b8", "bitwise", 48, 64, batch=8, vocab=64),
    *(square(f"var256-{n}-{m}", "VAR-256", n, m) for n, m in pairwise(VAR_256)),
    square("cfg-13-16-b64", "VAR-256 cfg", 13, 16, batch=64, cfg=True),
    square("cfg-24-32-b16", "VAR-512 cfg", 24, 32, batch=16, cfg=True),
    square("cfg-48-64-b4", "1024px cfg", 48, 64, batch=4, cfg=True),
)

CACHES = 4  # in a cold run, the sets in rotation fill the last-level cache this many times
MOST_SETS = 512
LEAST_CALLS = 4
GRAPH_SECONDS = 2e-3  # about how long a graph runs


def backends_of(device: torch.device) -> tuple[str, ...]:
    return ("cuda", "triton") if device.type == "cuda" else ("cpu",)


def backend_of(contender: Contender) -> str | None:
    """Whose kernels a contender of ours runs; None for the others."""
    return contender.name.removeprefix("ours_") if contender.family == "ours" else None


def run_case(
    case: Case,
    dtype: torch.dtype,
    device: torch.device,
    budget: Budget,
    contenders: Sequence[Contender],
) -> dict[str, Any]:
    """Judges every contender of a case and times it cold and hot. Returns one result of the JSON."""
    cache = machine.cache_bytes(device)
    set_bytes = case.input_bytes(dtype) + case.output_bytes(dtype)
    count = min(max(2, math.ceil(CACHES * cache / set_bytes)), MOST_SETS)
    with torch.device("cpu"):
        one = make_inputs(case, dtype)[0]
    first: Inputs = (one[0].to(device), one[1].to(device))
    sets = [first] + [(first[0].clone(), first[1].clone()) for _ in range(count - 1)]
    rows: list[dict[str, Any]] = []
    cold: dict[str, Recording] = {}
    hot: dict[str, Recording] = {}
    with torch.inference_mode():
        want = check.expected(case, *first)
        for contender in contenders:
            if not contender.applies(case, dtype):
                continue
            backend = backend_of(contender)
            row: dict[str, Any] = {"name": contender.name, "family": contender.family}
            rows.append(row)
            reason = backends.unavailable(backend, device) if backend else None
            if reason is not None:
                row.update(verdict="unavailable", reason=reason)
                continue
            try:
                with backends.forcing(backend) if backend else nullcontext():
                    step = contender.build(case, dtype, count)
                    got = step(*first)
                    verdict = check.judge(got, want, dtype) if contender.checked else None
                    del got
                    row.update(asdict(verdict) if verdict else {"verdict": "not checked"})
                    if row["verdict"] == "wrong":
                        continue
                    once = recordings.seconds(recordings.record(step, sets[:1], 5, device), device)
                    # A slow contender may call fewer sets than fill the cache; at a small step that favours it.
                    calls = min(max(math.ceil(GRAPH_SECONDS / once), LEAST_CALLS), MOST_SETS)
                    calls = math.ceil(calls / count) * count if once * count < GRAPH_SECONDS else calls
                    rotating = recordings.record(step, sets, calls, device)
                    if backend and device.type == "cuda" and not rotating.captured:
                        raise RuntimeError("the operator was not captured into a graph")
                    cold[contender.name] = rotating
                    hot[contender.name] = recordings.record(step, sets[:1], calls, device)
                    row["captured"] = rotating.captured
                    if contender.family in ("ours", "baddbmm"):
                        row["host_us"] = recordings.host_seconds(step, first, device) * 1e6
            except Exception as error:  # the run goes on when a contender fails
                print(f"{contender.name} failed on {case.name}: {error}", file=sys.stderr)
                row.update(verdict="failed", reason=f"{type(error).__name__}: {error}"[:300])
        del want
        timings = recordings.measure(cold, device, budget)
        hot_timings = recordings.measure(hot, device, budget)
    if any(contender.compiled for contender in contenders):
        torch.compiler.reset()
    for row in rows:
        if row["name"] in timings:
            row.update(timings[row["name"]].as_json())
            row["hot_median_us"] = hot_timings[row["name"]].median * 1e6
    summary.add_bandwidth(rows, case.bytes_moved(dtype))
    return {
        "case": case.as_json(),
        "dtype": str(dtype).removeprefix("torch."),
        "caches": "cold",
        "sets": count,
        "rotated_over_cache": round(count * set_bytes / cache, 2),
        "bytes": case.bytes_moved(dtype),
        "contenders": rows,
        "ratios": summary.ratios(rows),
    }


def whole_image(
    dtype: torch.dtype, device: torch.device, budget: Budget, of: Sequence[str]
) -> list[dict[str, Any]]:
    """Times an image: all ten scales of VAR-256 at B = 1 in one graph, once by the operators and once by `SSG`."""
    logits = [torch.randn(1, n * n, 4096, device=device).to(dtype) for n in VAR_256]
    beta = torch.tensor(BETA, device=device)
    rows = []
    for backend in of:
        if backends.unavailable(backend, device) is not None:
            continue
        betas = [torch.tensor(BETA * (1 - k / len(VAR_256)), device=device) for k in range(len(VAR_256))]

        def operators(*_: Tensor, betas: Sequence[Tensor] = betas) -> object:
            return [
                torch.ops.ssg.guided_logits(now, before, (n, n), (m, m), beta_k)
                for (m, n), (before, now), beta_k in zip(
                    pairwise(VAR_256), pairwise(logits), betas[1:], strict=True
                )
            ]

        def ssg(*_: Tensor) -> object:
            guidance = SSG(VAR_256, beta)
            return [guidance(x) for x in logits]

        for name, step in (("operators", operators), ("SSG", ssg)):
            with torch.inference_mode(), backends.forcing(backend):
                recording = recordings.record(step, [(logits[0], logits[1])], 10, device)
                timing = recordings.measure({name: recording}, device, budget)[name]
            row = {"backend": backend, "what": name, "dtype": str(dtype).removeprefix("torch.")}
            rows.append({**row, "captured": recording.captured, **timing.as_json()})
    return rows


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__, allow_abbrev=False)
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="case names (default: all)")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument(
        "--backends", nargs="+", metavar="NAME", help="our backends to time (default: all of the device)"
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        metavar="NAME",
        help="time only these contenders beside our own (default: all)",
    )
    parser.add_argument(
        "--no-compile", action="store_true", help="leave out the contenders under torch.compile"
    )
    parser.add_argument(
        "--budget", type=float, default=0.15, metavar="SECONDS", help="timed seconds per contender and case"
    )
    parser.add_argument("--device", default="cuda", help='"cpu" tries out the benchmark itself without a GPU')
    parser.add_argument("--out", type=Path, default=machine.ROOT / "bench" / "results" / "local-gpu.json")
    arguments = parser.parse_args(argv)
    names = [case.name for case in CASES]
    for name in arguments.cases or []:
        if name not in names:
            parser.error(f"no case {name!r}; there are {', '.join(names)}")
    arguments.backends = arguments.backends or backends_of(torch.device(arguments.device))
    others = [contender.name for contender in CONTENDERS]
    for name in arguments.contenders or []:
        if name not in others:
            parser.error(f"no contender {name!r}; there are {', '.join(others)}")
    return arguments


def _chosen(arguments: argparse.Namespace) -> list[Contender]:
    def is_wanted(contender: Contender) -> bool:
        backend = backend_of(contender)
        if backend is not None:
            return backend in arguments.backends
        if contender.compiled and arguments.no_compile:
            return False
        return arguments.contenders is None or contender.name in arguments.contenders

    return [contender for contender in CONTENDERS if is_wanted(contender)]


@contextmanager
def default_device(device: torch.device) -> Iterator[None]:
    """Makes `device` torch's default device, so that the baselines build their matrices and buffers there."""
    before = torch.get_default_device()
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(before)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if each of our backends was exact on every case or is unavailable here, else 1."""
    arguments = _arguments(argv)
    device = torch.device(arguments.device)
    contenders = _chosen(arguments)
    budget = Budget(seconds=arguments.budget, warmup=min(0.05, arguments.budget), max_samples=200)
    document: dict[str, Any] = {
        "format": 1,
        "run": {"date": machine.now(), **machine.commit(), "budget_s": budget.seconds},
        "machine": {**machine.machine(), **machine.accelerator(device)},
        "versions": machine.versions(),
        "contenders": {contender.name: contender.describe for contender in contenders},
        "results": [],
        "whole_image": [],
    }
    work = [
        (case, dtype)
        for case in CASES
        for dtype in arguments.dtypes
        if arguments.cases is None or case.name in arguments.cases
    ]
    with default_device(device):
        for case, dtype in tqdm(work, unit="case", dynamic_ncols=True):
            result = run_case(case, DTYPES[dtype], device, budget, contenders)
            document["results"].append(result)
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            tqdm.write(f"\n{result['case']['label']}, {dtype} ({result['bytes'] / 1e6:.2f} MB)")
            tqdm.write("\n".join(report.contenders_table(result)))
        for dtype in arguments.dtypes:
            document["whole_image"] += whole_image(DTYPES[dtype], device, budget, arguments.backends)
    arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print("\n".join(report.summary_table(document)))
    for row in document["whole_image"]:
        print(
            f"VAR-256, ten scales, {row['what']}, {row['backend']}, {row['dtype']}: {row['median_us']:.1f} us"
        )
    ours = [row for result in document["results"] for row in result["contenders"] if row["family"] == "ours"]
    return 0 if all(row["verdict"] in ("exact", "unavailable") for row in ours) else 1


if __name__ == "__main__":
    sys.exit(main())
