"""The object that `attach` is given, and what upstream says must be there."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ssg_kernels.integrations._hooks import Place, hooked_function, hooked_method, is_entered

# Hooks one name of one object or module while the context lasts.
Install = Callable[[], AbstractContextManager[Place]]


class AttachedAlready(ValueError):
    """The model is in another context at this moment."""


class Target:
    """A model, and the names that an integration needs of it.

    Args:
        model: the object itself, or what `torch.compile` or an adapter made of it.
        integration: the name of the integration in error messages.
        upstream: the repository and the commit in error messages; "" for none.
        methods: dotted paths of the sampling methods.
    """

    def __init__(self, model: Any, integration: str, upstream: str, methods: Sequence[str]) -> None:
        # A compiled module and an adapter such as PEFT's pass the sampling method on; hooks go on its own object.
        model = getattr(model, "_orig_mod", model)
        if inspect.getattr_static(model, methods[0], None) is None:
            model = getattr(getattr(model, methods[0], None), "__self__", model)
        self.model, self.methods = model, methods
        self.integration, self._upstream = integration, upstream

    def refuse(self, problem: str) -> ValueError:
        """The error that says what this integration cannot do, and which upstream it follows: `raise` it."""
        follows = f"; this integration follows {self._upstream}" if self._upstream else ""
        return ValueError(f"{self.integration}: {problem}{follows}")

    def attached_already(self) -> ValueError:
        return AttachedAlready(self.refuse(f"this {type(self.model).__name__} is attached already"))

    def need(self, path: str) -> Any:
        """The attribute at a dotted path; "" is the model. Raises ValueError where there is none."""
        found = self.model
        for name in filter(None, path.split(".")):
            if not hasattr(found, name):
                raise self.refuse(f"{type(self.model).__name__} has no {path}")
            found = getattr(found, name)
        return found

    def need_method(self, path: str) -> tuple[Any, str]:
        """The object and the name of the method at a dotted path.

        Raises ValueError where there is none, or where it is the sampling method of an attached model.
        """
        part, _, name = path.rpartition(".")
        owner = self.need(part)
        self.need(path)
        if is_entered(owner, name):
            raise self.attached_already()
        return owner, name


@dataclass(frozen=True)
class Method:
    """Where a hook goes: on the method at this dotted path, "get_logits" or "transformer.out.forward"."""

    path: str

    def find(self, target: Target) -> list[Install]:
        """Raises ValueError where the model has no such method."""
        return [functools.partial(hooked_method, *target.need_method(self.path))]


@dataclass(frozen=True)
class Function:
    """Where a hook goes: on the function of this name that the sampling method finds in its module.

    The modules of the model's classes may have it too, each under an import of its own.
    """

    name: str

    def find(self, target: Target) -> list[Install]:
        """Raises ValueError where the module of the sampling method has no such function."""
        path = target.methods[0]
        target.need_method(path)
        namespace: dict[str, Any] = getattr(inspect.unwrap(target.need(path)), "__globals__", {})
        if not callable(namespace.get(self.name)):
            where = f"{type(target.model).__name__}.{path} of {namespace.get('__name__')}"
            raise target.refuse(f"{where} calls no {self.name}")
        modules = (sys.modules.get(kind.__module__) for kind in type(target.model).__mro__)
        namespaces = {
            id(found): found for found in (namespace, *(vars(module) for module in modules if module))
        }
        return [
            functools.partial(hooked_function, found, self.name)
            for found in namespaces.values()
            if callable(found.get(self.name))
        ]
