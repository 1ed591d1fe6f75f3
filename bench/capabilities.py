"""The CPU kernel on every instruction set that this processor runs (``python -m bench.capabilities``).

A process chooses its instruction set once, so each has a process of its own. They take turns, one at a
time, of 20 ms of calls with ``out=`` given. A ratio is the median over the turns.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from . import cases, machine, rate

CAPABILITIES = ("avx512", "avx2", "baseline")
TURN = 0.02  # seconds of calls, at least three
PAUSE = 0.01  # seconds before a turn: the threads of the other process fall asleep


@torch.inference_mode()
def serve(connection: Connection, capability: str, threads: int) -> None:
    """Says which instruction set it runs. Then it answers each (case name, dtype) with a turn's median in seconds."""
    os.environ["SSG_KERNELS_CPU_CAPABILITY"] = capability
    torch.set_num_threads(threads)
    connection.send(machine.kernel_capability())
    prepared: tuple[Any, Any] = (None, None)
    while (asked := connection.recv()) is not None:
        if prepared[0] != asked:
            name, dtype = asked
            (case,) = cases.select([name])
            ((logits, prev_logits),) = cases.make_inputs(case, rate.DTYPES[dtype])
            call = rate.step(case, logits, prev_logits, torch.empty_like(logits[: case.batch]))
            call()
            prepared = asked, call
        time.sleep(PAUSE)
        turn = rate.interleaved([prepared[1]], TURN, least=3)
        connection.send(statistics.median(seconds for (seconds,) in turn))


class Worker:
    """A process for one instruction set."""

    def __init__(self, capability: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, capability, threads), daemon=True)
        self._process.start()
        self.capability: str = self._connection.recv()

    def turn(self, case: str, dtype: str) -> float:
        self._connection.send((case, dtype))
        return float(self._connection.recv())

    def stop(self) -> None:
        self._connection.send(None)
        self._process.join()


def measure(workers: Sequence[Worker], case: str, dtype: str, budget: float) -> dict[str, Any]:
    """Median milliseconds of each instruction set, and how many times as long as the first one each takes."""
    rounds: list[list[float]] = []
    end = time.perf_counter() + budget
    while len(rounds) < 5 or time.perf_counter() < end:
        rounds.append([worker.turn(case, dtype) for worker in workers])
    return {
        "case": case,
        "dtype": dtype,
        "turns": len(rounds),
        "ms": {w.capability: statistics.median(r[i] for r in rounds) * 1e3 for i, w in enumerate(workers)},
        "ratio": {
            w.capability: statistics.median(r[i] / r[0] for r in rounds) for i, w in enumerate(workers)
        },
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    names = list(rows[0]["ms"])
    lines = [
        "| step | dtype | "
        + " | ".join([f"{n}, ms" for n in names] + [f"{n} / {names[0]}" for n in names[1:]])
        + " |",
        "| --- | --- |" + " ---: |" * (2 * len(names) - 1),
    ]
    labels = {case.name: case.label for case in cases.CASES}
    for row in rows:
        figures = [f"{row['ms'][n]:.3g}" for n in names] + [f"{row['ratio'][n]:.2f}" for n in names[1:]]
        lines.append(f"| {labels[row['case']]} | {row['dtype']} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def document(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rows with what they were measured on."""
    facts = {"machine": machine.machine(), "versions": machine.versions(), "commit": machine.commit()}
    return {"date": machine.now(), **facts, "rows": list(rows)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--cases", nargs="*", help="patterns of case names; all cases by default")
    parser.add_argument("--dtypes", nargs="*", choices=list(rate.DTYPES), default=["float32"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing, per step and dtype")
    parser.add_argument("--json", type=Path, help="a file for the rows and the facts of the machine")
    arguments = parser.parse_args(argv)
    workers = []
    for capability in CAPABILITIES:
        worker = Worker(capability, arguments.threads)
        if worker.capability == capability:
            workers.append(worker)
        else:
            worker.stop()
    rows = [
        measure(workers, case.name, dtype, arguments.seconds)
        for case in cases.select(arguments.cases)
        for dtype in arguments.dtypes
    ]
    for worker in workers:
        worker.stop()
    print(table(rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(document(rows), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
