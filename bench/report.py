"""Tables from the JSON: for the terminal, and as Markdown (``python -m bench.report results.json``)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from . import summary

COLUMNS = (
    ("baddbmm", "baddbmm"),
    ("separable", "separable"),
    ("naive_eager", "naive"),
    ("naive_fft", "naive, FFT"),
    ("naive_compiled", "naive, compiled"),
)
INEXACT = "\u2020"


def format_time(microseconds: float) -> str:
    """Three significant digits: "4.12 µs", "987 µs", "12.3 ms", "1.25 s"."""
    value, unit = microseconds, "µs"
    if value >= 999.5:
        value, unit = value / 1e3, "ms"
    if value >= 999.5:
        value, unit = value / 1e3, "s"
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"


def format_bandwidth(bytes_per_second: float) -> str:
    return (
        f"{bytes_per_second / 1e12:.2f} TB/s"
        if bytes_per_second >= 1e11
        else f"{bytes_per_second / 1e9:.1f} GB/s"
    )


def format_ratio(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 99.5 else f"{ratio:.1f}x" if ratio >= 9.95 else f"{ratio:.2f}x"


def _row(result: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((row for row in result["contenders"] if row["name"] == name), None)


def _over_ours(result: dict[str, Any], approach: str) -> str:
    ratio = result["ratios"].get(approach)
    if ratio is None or "over_ours" not in ratio:
        return ""
    row = _row(result, ratio["name"])
    inexact = row is not None and row.get("verdict") == "inexact"
    return format_ratio(ratio["over_ours"]) + (INEXACT if inexact else "")


def _figures(result: dict[str, Any], spread: bool) -> list[str]:
    mine = summary.fastest(result["contenders"], ["ours"])
    if mine is None:
        verdict = next((row["verdict"] for row in result["contenders"] if row["family"] == "ours"), "absent")
        return [verdict, "", *("" for _ in COLUMNS)]
    time = format_time(mine["median_us"])
    if spread:
        time += f" ({format_time(mine['p20_us'])} to {format_time(mine['p80_us'])})"
    share = f"{mine['copy_share']:.0%}" if "copy_share" in mine else ""
    return [time, share, *(_over_ours(result, approach) for approach, _ in COLUMNS)]


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def inexact_errors(results: Iterable[dict[str, Any]]) -> dict[str, float]:
    """The largest relative error of each contender that was right, but beyond the bound."""
    errors: dict[str, float] = {}
    for result in results:
        for row in result["contenders"]:
            if row.get("verdict") == "inexact":
                errors[row["name"]] = max(errors.get(row["name"], 0.0), row["max_error"])
    return errors


def refused(results: Iterable[dict[str, Any]]) -> list[str]:
    """One sentence for every contender without a figure."""
    return [
        f"{row['name']} on {result['case']['label']}, {result['dtype']}: {row['verdict']}, {row['reason']}"
        for result in results
        for row in result["contenders"]
        if row["verdict"] in ("wrong", "failed")
    ]


def notes(document: dict[str, Any]) -> list[str]:
    """Sentences on what the tables leave out: inexact results, refused contenders, a missing kernel."""
    lines = []
    errors = inexact_errors(document["results"])
    if errors:
        listed = ", ".join(f"{name} {error:.1e}" for name, error in sorted(errors.items()))
        lines.append(
            f"{INEXACT} rounds factors or intermediates, and is beyond the accuracy bound; "
            f"its error relative to the largest value: {listed}"
        )
    lines += refused(document["results"])
    if not document["versions"]["kernel_in_use"]:
        lines.append('The compiled kernel was not in use: "ours" is the reference behind the operator.')
    return lines


def contenders_table(result: dict[str, Any]) -> list[str]:
    """Every contender of one result, aligned for a terminal."""
    rows = [("", "median", "p20", "p80", "n", "x copy", "GB/s", "error", "")]
    for row in result["contenders"]:
        if "median_us" not in row:
            rows.append((row["name"], "", "", "", "", "", "", "", f"{row['verdict']}: {row['reason']}"))
            continue
        rows.append(
            (
                row["name"],
                *(format_time(row[key]) for key in ("median_us", "p20_us", "p80_us")),
                str(row["n"]),
                f"{row['over_copy']:.2f}" if "over_copy" in row else "",
                f"{row['gbytes_per_s']:.1f}",
                f"{row['max_error']:.1e}" if "max_error" in row else "",
                INEXACT if row["verdict"] == "inexact" else "",
            )
        )
    return _align(rows)


def summary_table(document: dict[str, Any]) -> list[str]:
    """The time of ours and the other approaches' ratios to it, one line per result, aligned for a terminal."""
    header = ["", "ours", "of copy", *(f"{title} / ours" for _, title in COLUMNS)]
    rows = [header]
    for result in document["results"]:
        rows.append([_title(result), *_figures(result, spread=False)])
    return _align(rows)


def _title(result: dict[str, Any]) -> str:
    cold = ", cold" if result["caches"] == "cold" else ""
    return f"{result['case']['label']}, {result['dtype']}{cold}"


def _overhead_rows(overhead: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    def cell(row: dict[str, Any], name: str) -> str:
        figure = row["calls"][name]
        return f"{format_time(figure['median_us'])}, {figure['over_addmm']:.2f}x"

    header = ["call", *(row["case"] for row in overhead)]
    return header, [[name, *(cell(row, name) for row in overhead)] for name in overhead[0]["calls"]]


def overhead_table(document: dict[str, Any]) -> list[str]:
    """The time per call of the smallest cases, also in units of addmm on the same size."""
    if not document.get("overhead"):
        return []
    header, rows = _overhead_rows(document["overhead"])
    return _align([header, *rows])


def _megabytes(row: dict[str, Any]) -> str:
    if "bytes" not in row:
        return "not measured"
    return f"{row['bytes'] / 1e6:.2f}, {row['bytes_again'] / 1e6:.2f}"


def memory_table(document: dict[str, Any]) -> list[str]:
    """Peak bytes of a call beyond its output."""
    if not document.get("memory"):
        return []
    rows = [
        (f"{row['label']}, {row['dtype']}", row["contender"], _megabytes(row)) for row in document["memory"]
    ]
    return _align([("peak beyond the output", "", "MB: first call, second"), *rows])


def threads(machine: dict[str, Any]) -> str:
    """ "1 thread", "2 threads"."""
    count = machine["torch_threads"]
    return f"{count} thread" + ("s" if count != 1 else "")


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    dashes = ["---", *("---:" for _ in header[1:])]
    return ["| " + " | ".join(cells) + " |" for cells in (header, dashes, *rows)]


def markdown(document: dict[str, Any]) -> str:
    """The tables for docs/performance.md: one per dtype, with the machine above and the notes below."""
    machine, versions, run = document["machine"], document["versions"], document["run"]
    commit = (run["commit"] or "no commit")[:12] + (" with changes" if run["dirty"] else "")
    lines = [
        f"{machine['cpu']}, {threads(machine)}, {machine['simd']}; "
        f"torch {versions['torch']}, ssg_kernels {versions['ssg_kernels']} ({commit}), {run['date'][:10]}. "
        "Median (p20 to p80) of one step; the columns to the right say how many times as long the fastest "
        "formulation of each approach takes.",
    ]
    header = ["step", "ours", "of the copy limit", *(title for _, title in COLUMNS)]
    for caches in ("warm", "cold"):
        for dtype in dict.fromkeys(result["dtype"] for result in document["results"]):
            results = [r for r in document["results"] if r["dtype"] == dtype and r["caches"] == caches]
            if results:
                lines += ["", f"{dtype}{', cold caches' if caches == 'cold' else ''}:", ""]
                lines += _markdown_table(
                    header, ([r["case"]["label"], *_figures(r, spread=True)] for r in results)
                )
    for note in notes(document):
        lines += ["", note]
    overhead = document.get("overhead", [])
    if overhead:
        lines += [
            "",
            "Time of one call in float32 under inference mode, also in units of `torch.addmm` on the same size:",
            "",
        ]
        lines += _markdown_table(*_overhead_rows(overhead))
    memory = document.get("memory", [])
    if memory:
        names = list(dict.fromkeys(row["contender"] for row in memory))
        steps = list(dict.fromkeys((row["label"], row["dtype"]) for row in memory))
        size = {(row["label"], row["dtype"], row["contender"]): _megabytes(row) for row in memory}
        lines += ["", "Peak memory beyond the output in MB, of the first call and of the second:", ""]
        lines += _markdown_table(
            ["step", *names],
            ([f"{step[0]}, {step[1]}", *(size.get((*step, name), "") for name in names)] for step in steps),
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    for path in arguments:
        print(markdown(json.loads(Path(path).read_text(encoding="utf-8"))), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
