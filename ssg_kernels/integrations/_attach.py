"""`ssg_kernels.attach`: finds the integration of a model by itself."""

from __future__ import annotations

import inspect
import logging
from importlib import import_module, metadata
from typing import Any

from ssg_kernels.integrations._integration import Attach, Integration
from ssg_kernels.integrations._target import AttachedAlready

GROUP = "ssg_kernels.integrations"
"""The entry points by which other packages register integrations."""

_log = logging.getLogger("ssg_kernels")


class AnyModel(Attach):
    """Guide a model of any kind that an integration takes: `with ssg_kernels.attach(model, beta=0.5): ...`.

    The integration is found by what the model has: its sampling method and what that takes, the other methods and
    attributes, and the functions of its module. Where several integrations take the model, the one that asks for most
    is used. Other packages may register integrations as entry points of the group "ssg_kernels.integrations". The
    logger "ssg_kernels" says at INFO which integration was taken, and so does the context's `integration`.
    """

    def __init__(self) -> None:
        self.__name__ = "attach"
        self.__module__ = "ssg_kernels"
        self.__doc__ = f"{inspect.getdoc(type(self))}\n\n{inspect.getdoc(Attach.__call__)}"

    def __repr__(self) -> str:
        return "ssg_kernels.attach"

    def taken_by(self, model: Any, method: str | None) -> Integration:
        found, refusals = _integrations()
        taking: list[tuple[int, Integration, str]] = []
        for integration in found:
            try:
                context = integration.recognise(model, method)
            except AttachedAlready as error:
                raise ValueError(
                    f"ssg_kernels.attach: this {type(model).__name__} is attached already"
                ) from error
            except ValueError as error:
                refusals.append(str(error))
            else:
                taking.append((integration.facts(model), integration, repr(context)))
        if not taking:
            reasons = "".join(f"\n  {refusal}" for refusal in refusals)
            raise ValueError(
                f"ssg_kernels.attach: no integration takes this {type(model).__name__}:{reasons}\n"
                "If its sampling method has another name, pass method=. For a model of another kind write an "
                "integration of 20 lines: subclass ssg_kernels.integrations.NextScale (docs/integrations/own.md). Or "
                "put one line in the sampling loop (docs/usage.md)"
            )
        _, taken, name = max(taking, key=lambda one: one[0])
        _log.info("guided by %s", name)
        return taken


def _integrations() -> tuple[list[Integration], list[str]]:
    """Those of other packages, then ours; and why some could not be loaded."""
    found, failures = [], []
    for entry in metadata.entry_points(group=GROUP):
        try:
            loaded = entry.load()
        except Exception as error:
            # A broken package must not keep others from being guided.
            failures.append(f"entry point {entry.name} ({entry.value}): {type(error).__name__}: {error}")
            continue
        loaded = getattr(loaded, "attach", loaded)
        if isinstance(loaded, Integration):
            found.append(loaded)
        else:
            failures.append(f"entry point {entry.name} ({entry.value}): is no integration")
    ours = (getattr(module, "attach", None) for module in vars(import_module(GROUP)).values())
    return [*found, *(one for one in ours if isinstance(one, Integration))], failures


attach = AnyModel()
