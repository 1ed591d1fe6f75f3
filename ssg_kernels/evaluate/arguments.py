"""The arguments of `python -m ssg_kernels evaluate`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from ssg_kernels._names import INTERPOLATIONS, PRIORS

_SCHEDULES = ("linear", "static")
_ORDERS = ("after", "before")
_SWITCHES = {"off": False, "on": True}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe",
        nargs="?",
        help="demo, var, hart, infinity, switti, vq_diffusion, or a Python file with a recipe of your own",
    )
    parser.add_argument(
        "--list", action="store_true", help="the recipes, and the paper's rows that they reproduce"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="what would run, and an estimate of the time from one chunk"
    )
    where = parser.add_argument_group("model and data")
    where.add_argument("--upstream", type=Path, metavar="DIR", help="checkout of the model's own code")
    where.add_argument(
        "--weights", type=Path, nargs="+", default=[], metavar="FILE", help="in the order that --list shows"
    )
    where.add_argument(
        "--prompts", type=Path, metavar="FILE", help="for models of text: JSON, CSV, or a line each"
    )
    where.add_argument(
        "--reference", type=Path, metavar="PATH", help="folder or npz of images, or npz with mu and sigma"
    )
    where.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of chunks and results; a run resumes there"
    )
    where.add_argument("--device", default="auto", help="auto: this rank's GPU, or the CPU")
    what = parser.add_argument_group("what is generated")
    what.add_argument(
        "--images", type=_count, metavar="N", help="of each setting and seed (default: the protocol's)"
    )
    what.add_argument("--seed", "--seeds", dest="seeds", type=_seed, nargs="+", default=[0], metavar="N")
    what.add_argument(
        "--set",
        dest="options",
        action="append",
        default=[],
        type=_option,
        metavar="NAME=VALUE",
        help="an option of the recipe, such as cfg=1.5; cfg=1.5,2 compares both",
    )
    grid = parser.add_argument_group(
        "guidance", "each takes several values, and all combinations are compared"
    )
    grid.add_argument(
        "--beta", type=_number, nargs="+", default=[0.0], metavar="B", help="0 is without guidance"
    )
    grid.add_argument("--prior", choices=PRIORS, nargs="+", default=["dse"])
    grid.add_argument("--interpolation", choices=INTERPOLATIONS, nargs="+", default=["bilinear"])
    grid.add_argument("--schedule", choices=_SCHEDULES, nargs="+", default=["linear"])
    grid.add_argument("--rescale", choices=_SWITCHES, nargs="*", default=["off"], help="alone: on")
    grid.add_argument("--cfg-order", choices=_ORDERS, nargs="+", default=["after"])
    grid.add_argument("--temperature", type=_positive, nargs="+", default=[1.0], metavar="T")
    how = parser.add_argument_group("metrics and samples")
    how.add_argument("--metrics", nargs="+", metavar="NAME", help="default: those of the recipe")
    how.add_argument(
        "--clip", metavar="MODEL", help="CLIP model of clip_score, a name that transformers knows"
    )
    how.add_argument(
        "--keep",
        choices=("png", "npz"),
        nargs="+",
        default=[],
        help="samples as PNG, or as the ADM evaluator takes them",
    )


def axes(given: dict[str, Any]) -> dict[str, list[Any]]:
    """The values on each axis of the grid."""
    names = ("temperature", "cfg_order", "rescale", "schedule", "interpolation", "prior", "beta")
    found = {name: list(given[name]) for name in names}
    found["rescale"] = [_SWITCHES[text] for text in given["rescale"] or ["on"]]
    return found


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**32 - 1, got {value}")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be finite, got {text}")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def _option(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    if not (name and equals and values):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    return name, values.split(",")


def options(defaults: dict[str, Any], given: list[tuple[str, list[str]]]) -> dict[str, list[Any]]:
    """The values of the recipe's options, in the types of their defaults. Raises ValueError for unknown ones."""
    found = {name: [value] for name, value in defaults.items()}
    for name, texts in given:
        if name not in defaults:
            raise ValueError(
                f"--set {name}: the recipe has no such option; it has {', '.join(defaults) or 'none'}"
            )
        found[name] = [_typed(name, text, defaults[name]) for text in texts]
    return found


def _typed(name: str, text: str, default: Any) -> Any:
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}[
                text.lower()
            ]
        return kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"--set {name}: must be a {kind.__name__} such as {default}, got {text!r}") from None
