"""The node "Scaled Spatial Guidance": a loaded next-scale model goes in, and comes out guided."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import ssg_kernels
from ssg_kernels._names import CFG_ORDERS, INTERPOLATIONS, PRIORS, SCHEDULES


class AnyType(str):
    """A type that links to every other, since each node pack has a type of its own for its models."""

    __slots__ = ()

    def __ne__(self, other: object) -> bool:
        return False


ANY = AnyType("*")


class Guided:
    """A model whose sampling methods run guided. Everything else about it is the model's own.

    The model itself stays as it is, so other branches of a graph may use it unguided.
    """

    def __init__(self, model: Any, settings: Mapping[str, Any]) -> None:
        # Where nodes are chained, the last one counts.
        model = model._model if isinstance(model, Guided) else model
        attach = functools.partial(ssg_kernels.attach, model, **settings)
        # A model that no integration takes raises ValueError here, and the graph shows it at this node.
        context: Any = attach()
        vars(self).update(_model=model, _attach=attach, _methods=context.methods)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self._model, name)
        return functools.partial(self._call, name) if inspect.ismethod(found) else found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._model, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call("__call__", *args, **kwargs)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if name in self._methods:
            with self._attach() as model:
                return getattr(model, name)(*args, **kwargs)
        result = getattr(self._model, name)(*args, **kwargs)
        # `to` and `eval` return the model.
        return self if result is self._model else result


class ScaledSpatialGuidance:
    """Guides the model that another node has loaded.

    Takes the model itself, or a tuple that begins with it, such as the INFINITY_MODEL of ComfyUI-ByteDance-Infinity.
    Returns the same with the guided model in it.
    """

    CATEGORY: ClassVar[str] = "sampling/guidance"
    DESCRIPTION: ClassVar[str] = (
        "Steers a next-scale model, such as Infinity, towards the detail that each finer scale should add."
    )
    FUNCTION: ClassVar[str] = "guide"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = (ANY,)
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> Mapping[str, Mapping[str, tuple[Any, dict[str, Any]]]]:
        beta = {"default": 0.5, "min": -10.0, "max": 10.0, "step": 0.05}
        return {
            "required": {
                "model": (ANY, {"tooltip": "A next-scale model that another node has loaded."}),
                "beta": ("FLOAT", {**beta, "tooltip": "The strength; 0 changes nothing."}),
                "schedule": _choice(SCHEDULES, "How the strength goes from scale to scale."),
                "prior": _choice(PRIORS, "What each scale is compared with; dse is the paper's."),
            },
            "optional": {
                "interpolation": _choice(INTERPOLATIONS, "How the prior fills the finer grid.", "bilinear"),
                "rescale": ("BOOLEAN", {"default": False, "tooltip": "Keep the amplitude of the prior."}),
                "cfg_order": _choice(CFG_ORDERS, "Guide after cfg has merged its halves, or before."),
            },
        }

    def guide(self, model: Any, **settings: Any) -> tuple[Any]:
        if isinstance(model, tuple):
            return ((Guided(model[0], settings), *model[1:]),)
        return (Guided(model, settings),)


def _choice(
    names: tuple[str, ...], tooltip: str, default: str | None = None
) -> tuple[list[str], dict[str, Any]]:
    return list(names), {"default": default or names[0], "tooltip": tooltip}


NODE_CLASS_MAPPINGS = {"ScaledSpatialGuidance": ScaledSpatialGuidance}
NODE_DISPLAY_NAME_MAPPINGS = {"ScaledSpatialGuidance": "Scaled Spatial Guidance"}
