"""The recipes that come with the package, by name, and recipes from files."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from pathlib import Path

from ssg_kernels.evaluate.recipe import EvaluateError, Recipe

NAMES = ("demo", "var", "hart", "infinity", "switti", "vq_diffusion")


def find(name: str) -> type[Recipe]:
    """The recipe called `name`, or the one in the Python file `name`. Raises EvaluateError if there is none."""
    if name in NAMES:
        module = importlib.import_module(f"ssg_kernels.evaluate.recipes.{name}")
    elif name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise EvaluateError(f"there is no file {name} to take a recipe from")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        raise EvaluateError(f"{name!r} is no recipe; choose one of {', '.join(NAMES)}, or name a Python file")
    own = [
        kind
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, Recipe) and kind.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise EvaluateError(
            f"{name} must define exactly one class that derives from Recipe, found {len(own)}"
        )
    return own[0]
