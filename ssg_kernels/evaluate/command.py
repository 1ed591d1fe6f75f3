"""`python -m ssg_kernels evaluate`: turns what went wrong into a sentence and an exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from ssg_kernels.evaluate import recipes
from ssg_kernels.evaluate.recipe import EvaluateError


class _Stopped(BaseException):
    pass


def main(given: dict[str, Any], command: Sequence[str]) -> int:
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        if given["list"]:
            print(listing())
            return 0
        if given["recipe"] is None:
            raise EvaluateError(f"name a recipe: {', '.join(recipes.NAMES)}, or a Python file")
        from ssg_kernels.evaluate import run

        return run.dry_run(given) if given["dry_run"] else run.run(given, command)
    except EvaluateError as reason:
        _say(str(reason))
        return 2
    except OSError as reason:
        _say(f"{reason}. The finished chunks are kept: run the same command again")
        return 2
    except ImportError as missing:
        _say(f"{missing}; pip install 'ssg-kernels[evaluate]' brings what it needs")
        return 2
    except (KeyboardInterrupt, _Stopped) as stopped:
        told = (
            "it was told to stop (another rank may have died)"
            if isinstance(stopped, _Stopped)
            else "interrupted"
        )
        _say(f"{told}. The finished chunks are kept: run the same command again")
        return 128 + (signal.SIGTERM if isinstance(stopped, _Stopped) else signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(*_: object) -> None:
    raise _Stopped


def _say(sentence: str) -> None:
    rank = os.environ.get("RANK")
    print(f"evaluate{f' (rank {rank})' if rank else ''}: {sentence}", file=sys.stderr, flush=True)


def listing() -> str:
    """The recipes, their options and the paper's rows."""
    lines = []
    for name in recipes.NAMES:
        recipe = recipes.find(name)
        lines.append(f"{name}: {recipe.summary}")
        if recipe.upstream:
            lines.append(f"  --upstream  {recipe.upstream}")
        lines += [f"  --weights   {weights}" for weights in recipe.weights]
        lines.append("  --set       " + " ".join(f"{key}={value}" for key, value in recipe.options.items()))
        lines.append(
            f"  {recipe.images} images in chunks of {recipe.chunk}; metrics: {', '.join(recipe.metrics)}"
        )
        for row in recipe.paper:
            figures = ", ".join(f"{key} {value:g}" for key, value in row.metrics.items())
            lines.append(f"  {row.table}: {row.name}: {figures}")
        lines.append("")
    return "\n".join(lines).rstrip()
