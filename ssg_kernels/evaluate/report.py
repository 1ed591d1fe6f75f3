"""Writes the report: Markdown, CSV, pictures, and one static page that shows all of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from ssg_kernels.evaluate import pictures, tables
from ssg_kernels.evaluate.folder import Folder, Item, write
from ssg_kernels.evaluate.generation import SHOWN
from ssg_kernels.evaluate.recipe import Recipe

RULE = (
    "the largest beta whose FID is not significantly above the lowest one, which is how we read Appendix F of the "
    "paper: from the point just before the FID begins to degrade significantly"
)


def write_all(
    folder: Folder,
    recipe: Recipe,
    names: Sequence[str],
    chunks: Mapping[str, Sequence[Item]],
    results: Mapping[str, Any],
) -> None:
    table = tables.table(results, names, recipe)
    out = folder.path
    sweep = pictures.trade_off(results["rows"], results["best"], out / "fid_is.png")
    shown = {name: _shown(folder, items) for name, items in chunks.items()}
    captions = [recipe.prompt(i) for i in range(pictures.COLUMNS)]
    pictures.side_by_side(shown, captions, out / "images.png")
    texts = {
        "table.csv": tables.as_csv(results, recipe),
        "report.md": _markdown(recipe, table, names, results, sweep),
        "index.html": _page(recipe, table, names, results, sweep),
    }
    for name, text in texts.items():
        write(out / name, text.encode())
    print(tables.markdown(table))
    print(f"\nWritten: {out / 'index.html'}, report.md, table.csv, results.json")


def _shown(folder: Folder, items: Sequence[Item]) -> np.ndarray:
    first = [item for item in items if item.first < min(SHOWN, pictures.COLUMNS)]
    return folder.read(first, "images")


def sentences(recipe: Recipe, names: Sequence[str], results: Mapping[str, Any]) -> list[str]:
    """What a reader must know beside the table."""
    seeds = results["seeds"]
    found = [
        f"{recipe.name}: {recipe.summary}. {results['images']} images of each setting and seed; seeds "
        f"{', '.join(map(str, seeds))}."
    ]
    if len(seeds) > 1:
        found.append("Figures are means over the seeds, with the standard error after ±.")
    else:
        found.append("With one seed there are no standard errors: use several, such as --seeds 0 1 2 3 4.")
    if results["best"] is not None:
        found.append(f"Best setting: {names[results['best']]} ({RULE}).")
    found += [f"Not measured: {name}, since {reason}." for name, reason in results["unmeasured"].items()]
    libraries: dict[str, list[str]] = {}
    for name, library in results["computed by"].items():
        libraries.setdefault(library, []).append(name)
    for library, measured in libraries.items():
        found.append(f"Computed by {library}: {', '.join(measured)}.")
    return found


def _markdown(
    recipe: Recipe, table: tables.Table, names: Sequence[str], results: Mapping[str, Any], sweep: bool
) -> str:
    parts = [f"# Evaluation: {recipe.name}", tables.markdown(table), *sentences(recipe, names, results)]
    if sweep:
        parts.append("![FID against IS](fid_is.png)")
    parts += ["![images from the same random numbers](images.png)"]
    parts += [f"    {shlex.join(results['repeat']['command'])}", _repeat(results["repeat"])]
    return "\n\n".join(parts) + "\n"


def _repeat(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    machine = facts["machine"]
    ranks = f"{facts['ranks']} rank{'s' if facts['ranks'] > 1 else ''}"
    return (
        f"{ranks}, on {machine['device']} ({machine['system']}). Versions: {versions}. "
        f"Commit: {facts['commit'] or 'an installed package'}."
    )


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --best: #b34a0022; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .9em; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr.best { background: var(--best); font-weight: 600; }
.wide { overflow-x: auto; }
img { max-width: 100%; background: white; }
code { overflow-wrap: anywhere; }
"""


def _page(
    recipe: Recipe, table: tables.Table, names: Sequence[str], results: Mapping[str, Any], sweep: bool
) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)

    marks = {table.best: ' class="best"'}
    rows = "\n".join(f"<tr{marks.get(i, '')}>{line('td', row)}</tr>" for i, row in enumerate(table.rows))
    told = "\n".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(recipe, names, results))
    curve = '<h2>FID against IS</h2>\n<img src="fid_is.png" alt="FID against IS">' if sweep else ""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Evaluation: {escape(recipe.name)}</title>
<style>{_STYLE}</style>
<h1>Evaluation: {escape(recipe.name)}</h1>
<div class="wide"><table>
<tr>{line("th", table.head)}</tr>
{rows}
</table></div>
{told}
{curve}
<h2>Images from the same random numbers</h2>
<div class="wide"><img src="images.png" alt="images of each setting, from the same random numbers"></div>
<h2>To repeat it</h2>
<p><code>{escape(shlex.join(results["repeat"]["command"]))}</code></p>
<p>{escape(_repeat(results["repeat"]))}</p>
<p><a href="results.json">results.json</a>, <a href="table.csv">table.csv</a>, <a href="report.md">report.md</a></p>
</html>
"""
