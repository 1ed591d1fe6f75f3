"""``python -m bench.sampling``: times the way from a model's logits to its tokens, per scale and per image.

"upstream" is what the models' own samplers run, without guidance by the previous scale: classifier-free guidance op by
op; top-k and top-p by masks, sort, softmax and cumsum; and a multinomial. "guidance" is what `attach` adds to that: the
step of an `SSG` on logits that cfg has merged. "ours" is `ssg_kernels.GuidedSampler`, with guidance, instead of it all.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from ssg_kernels import SSG, GuidedSampler, reference
from ssg_kernels._grids import Grid, Size, grids_of

from . import machine, recordings, report
from .__main__ import write
from .cases import DTYPES
from .schedules import AUDIO, VAR_256, VAR_512, VAR_1024, infinity
from .timing import Budget, Rotation, measure

DEFAULT_OUT = machine.ROOT / "bench" / "results" / "local-sampling.json"
BETA = 0.5
CHECKED_TOKENS = 64
GRAPH_CALLS = 4  # on a GPU, one graph holds this many calls of a step


@dataclass(frozen=True)
class Model:
    """How a model samples by default: strength t of cfg, filters and temperature of each scale."""

    name: str
    sizes: tuple[Size, ...]
    cfgs: tuple[float | None, ...]  # None where the logits have no unconditional half
    top_ks: tuple[int, ...]
    top_p: float = 0.0
    temperature: float = 1.0
    vocabulary: int = 4096
    classes: int | None = None
    dtype: str = "float32"

    @property
    def grids(self) -> tuple[Grid, ...]:
        return grids_of(self.sizes)


def ramp(cfg: float, count: int) -> tuple[float, ...]:
    return tuple(cfg * k / (count - 1) for k in range(count))


MODELS = (
    Model("VAR-256", VAR_256, ramp(1.5, 10), (900,) * 10, 0.96),
    Model("VAR-512", VAR_512, ramp(1.5, 10), (900,) * 10, 0.96),
    # HART's last scale has the t of the scale before it.
    Model("HART", VAR_1024, (*ramp(4.5, 14)[:-1], 4.5 * 12 / 13), (600,) * 7 + (300,) * 7),
    Model(
        "Infinity-2B",
        tuple(infinity("1.0")[:-1]),
        (2.0,) * 13,
        (2,) * 13,
        0.97,
        0.5,
        vocabulary=64,
        classes=2,
    ),
    Model("Switti", VAR_1024, (*ramp(6.0, 14)[:10], *(None,) * 4), (400,) * 14, 0.95, dtype="bfloat16"),
    Model("SAR3D", tuple((3, n, n) for n in VAR_256), ramp(4.0, 10), (10,) * 10, 0.5, vocabulary=16384),
    Model("AAR", tuple((n,) for n in AUDIO), ramp(4.0, 16), (200,) * 16, 0.95, vocabulary=1024),
)


def choices(logits: Tensor, model: Model) -> Tensor:
    """The rows that tokens are drawn from: (B, L, V) as it is, or (B, L * V / classes, classes)."""
    return logits if model.classes is None else logits.unflatten(2, (-1, model.classes)).flatten(1, 2)


def upstream(model: Model, k: int) -> Callable[[Tensor, Tensor], Tensor]:
    cfg, top_k, top_p = model.cfgs[k], model.top_ks[k], model.top_p

    def step(logits: Tensor, prev_logits: Tensor) -> Tensor:
        if model.temperature != 1:
            logits = logits * (1 / model.temperature)
        if cfg is None:
            logits = logits.clone()
        else:
            conditional, unconditional = logits.chunk(2)
            logits = (1 + cfg) * conditional - cfg * unconditional
        rows = choices(logits, model)
        kth = rows.topk(top_k, sorted=False).values.amin(-1, keepdim=True)
        rows.masked_fill_(rows < kth, -torch.inf)
        if top_p > 0:
            ascending, order = rows.sort()
            goes = ascending.softmax(-1).cumsum_(-1) <= 1 - top_p
            goes[..., -1] = False
            rows.masked_fill_(goes.scatter(-1, order, goes), -torch.inf)
        chances = rows.softmax(-1).flatten(0, 1)
        return torch.multinomial(chances, 1, replacement=True).view(rows.shape[:2])

    return step


def sampler_at(model: Model, k: int, **settings: Any) -> tuple[GuidedSampler, Callable[[Tensor], None]]:
    """A sampler, and a function that puts it at scale k (from 0) with the given previous logits."""
    cfg = None if model.cfgs[k] is None else [t or 0.0 for t in model.cfgs]
    sampler = GuidedSampler(
        model.sizes,
        BETA,
        cfg=cfg,
        top_k=model.top_ks,
        top_p=model.top_p,
        temperature=model.temperature,
        classes=model.classes,
        **settings,
    )

    def rewind(prev_logits: Tensor) -> None:
        sampler.reset()
        if k > 0:
            sampler.generation.remember(prev_logits, None if cfg is None else cfg[k - 1], k - 1)

    return sampler, rewind


def ours(model: Model, k: int) -> Callable[..., Tensor]:
    sampler, rewind = sampler_at(model, k)

    def step(logits: Tensor, prev_logits: Tensor, uniform: Tensor | None = None) -> Tensor:
        rewind(prev_logits)
        return sampler(logits, uniform=uniform)

    return step


def guidance(model: Model, k: int) -> Callable[[Tensor, Tensor], Tensor]:
    ssg = SSG(model.sizes, BETA)
    out: Tensor | None = None

    def step(logits: Tensor, prev_logits: Tensor) -> Tensor:
        nonlocal out
        # One half, as cfg would have merged the two. `attach` writes in place; here the inputs stay as they are.
        halves = 1 if model.cfgs[k] is None else 2
        merged, prev = logits.chunk(halves)[0], prev_logits.chunk(halves)[0]
        out = torch.empty_like(merged) if out is None else out
        ssg.reset()
        if k:
            ssg.generation.remember(prev, None, k - 1)
        return ssg(merged, out=out)

    return step


def make_inputs(
    model: Model, k: int, batch: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(k)
    rows = batch if model.cfgs[k] is None else 2 * batch
    counts = (model.grids[k].tokens, model.grids[max(k - 1, 0)].tokens)
    logits, prev_logits = (
        (4 * torch.randn(rows, count, model.vocabulary, generator=generator)).to(device, DTYPES[model.dtype])
        for count in counts
    )
    return logits, prev_logits


def verdict(model: Model, k: int, logits: Tensor, prev_logits: Tensor) -> str:
    """Checks some tokens of one sample: "exact" if ours draws what the reference draws from the guided logits."""
    cfg, ssg = model.cfgs[k], SSG(model.sizes, BETA)
    if k:
        prev_cfg = None if cfg is None else model.cfgs[k - 1] or 0.0
        ssg.generation.remember(prev_logits, prev_cfg, k - 1)
    guided = ssg(logits, cfg)
    rows = choices(guided, model)
    uniform = torch.rand(rows.shape[:2], generator=torch.Generator().manual_seed(k)).to(rows.device)
    some = slice(CHECKED_TOKENS)
    want = reference.sample_tempered(
        rows[:1, some], uniform[:1, some], 1 / model.temperature, model.top_ks[k], model.top_p
    )
    shape = guided.shape[:2] if model.classes is None else (*guided.shape[:2], -1)
    got = ours(model, k)(logits, prev_logits, uniform.view(shape)).flatten(1)[:1, some]
    # The merge of the first scale may round its last place differently.
    return "exact" if (got != want).sum() <= (1 if k == 0 else 0) else "wrong"


def run_scale(model: Model, k: int, batch: int, budget: Budget, device: torch.device) -> dict[str, Any]:
    inputs = make_inputs(model, k, batch, device)
    steps: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "upstream": upstream(model, k),
        "ours": ours(model, k),
        "guidance": guidance(model, k),
    }
    with torch.inference_mode():
        rows: dict[str, dict[str, Any]] = {
            "upstream": {"verdict": "not checked"},
            "ours": {"verdict": verdict(model, k, *inputs)},
            "guidance": {"verdict": "not checked"},
        }
        if rows["ours"]["verdict"] == "wrong":
            del steps["ours"]
        if device.type == "cpu":
            timings = measure(steps, Rotation([inputs], cold=False), budget)
        else:
            recorded = {
                name: recordings.record(step, [inputs], GRAPH_CALLS, device) for name, step in steps.items()
            }
            timings = recordings.measure(recorded, device, budget)
            for name, recording in recorded.items():
                rows[name]["captured"] = recording.captured
    return {
        "model": model.name,
        "scale": k + 1,
        "size": list(model.grids[k].size),
        "frames": model.grids[k].frames,
        "batch": batch,
        "vocab": model.vocabulary,
        "dtype": model.dtype,
        "cfg": model.cfgs[k],
        "top_k": model.top_ks[k],
        "top_p": model.top_p,
        "contenders": [
            {"name": name, **row, **(timings[name].as_json() if name in timings else {})}
            for name, row in rows.items()
        ],
    }


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    """The table of one model. Each scale has both times, their ratio, and its share of an image's upstream time."""
    first = results[0]
    medians = [{c["name"]: c.get("median_us") for c in result["contenders"]} for result in results]
    whole = {name: sum(m[name] or 0.0 for m in medians) for name in ("upstream", "ours", "guidance")}
    lines = [
        f"{first['model']}, B = {first['batch']}, V = {first['vocab']}, {first['dtype']}",
        f"{'scale':>8} {'upstream':>10} {'ours, guided':>13} {'ours/upstream':>14} {'guidance/upstream':>18} "
        f"{'of the image':>13}",
    ]
    for result, m in zip(results, medians, strict=True):
        grid = "x".join(map(str, [*[result["frames"]][result["frames"] == 1 :], *result["size"]]))
        share = m["upstream"] / whole["upstream"]
        mine = "wrong" if m["ours"] is None else report.format_time(m["ours"])
        ratio = "" if m["ours"] is None else f"{m['ours'] / m['upstream']:.3f}"
        lines.append(
            f"{grid:>8} {report.format_time(m['upstream']):>10} {mine:>13} {ratio:>14} "
            f"{m['guidance'] / m['upstream']:>18.3f} {share:>13.1%}"
        )
    if all(m["ours"] is not None for m in medians):
        times = (report.format_time(whole[name]) for name in ("upstream", "ours"))
        upstream_time, ours_time = times
        ratio = f"{whole['ours'] / whole['upstream']:.3f}"
        added = f"{whole['guidance'] / whole['upstream']:.3f}"
        lines.append(f"{'image':>8} {upstream_time:>10} {ours_time:>13} {ratio:>14} {added:>18} {1:>13.1%}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 if ours drew a wrong token, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.sampling", description=__doc__, allow_abbrev=False)
    names = [model.name for model in MODELS]
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--batch", type=int, default=1, help="number of images at once (default: 1)")
    parser.add_argument("--last", action="store_true", help="time the last scale only")
    parser.add_argument(
        "--budget", type=float, default=0.6, metavar="SECONDS", help="timed seconds per contender"
    )
    parser.add_argument(
        "--device", default="cpu", help='"cuda" times CUDA graphs; SSG_KERNELS_BACKEND picks our backend'
    )
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count the processor time of this process, on a busy machine (with --threads 1)",
    )
    parser.add_argument("--threads", type=int, help="torch's threads (default: torch's own choice)")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="JSON file of the results")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    budget = Budget(
        seconds=arguments.budget,
        warmup=min(Budget.warmup, arguments.budget),
        min_samples=3,
        clock=time.process_time_ns if arguments.cpu_time else time.perf_counter_ns,
    )
    device = torch.device(arguments.device)
    if device.type == "cpu" and not machine.kernel_in_use():
        print('The compiled kernel is not in use: "ours" is the reference.', file=sys.stderr)
    results: list[dict[str, Any]] = []
    document: dict[str, Any] = {
        "format": 1,
        "run": {
            "date": machine.now(),
            **machine.commit(),
            "budget_s": budget.seconds,
            "min_samples": 3,
            "clock": budget.clock.__name__,
        },
        "machine": {**machine.machine(), **machine.accelerator(device)},
        "backend": os.environ.get("SSG_KERNELS_BACKEND"),
        "versions": machine.versions(),
        "results": results,
    }
    for model in (model for model in MODELS if model.name in arguments.models):
        scales = range(len(model.sizes))[-1 if arguments.last else 0 :]
        for k in tqdm(scales, unit="scale", desc=model.name, leave=False, disable=None):
            results.append(run_scale(model, k, arguments.batch, budget, device))
            write(document, arguments.out)
        print("\n".join(table([r for r in results if r["model"] == model.name])) + "\n")
    verdicts = [c["verdict"] for result in results for c in result["contenders"]]
    return 1 if "wrong" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
