"""A stand-in of ComfyUI: it loads a folder of nodes, checks a graph as `execution.validate_inputs` does, and runs it.

The nodes beside ours are those of ComfyUI-ByteDance-Infinity, on the stand-in of Infinity.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support import standins

FOLDER = Path(__file__).resolve().parents[2] / "comfyui"

Prompt = Mapping[str, Mapping[str, Any]]
"""A graph in ComfyUI's API format: an id to the class and the inputs of a node; a link is [id, output]."""


class LoadModel:
    RETURN_TYPES = ("INFINITY_MODEL",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> Any:
        return {"required": {"seed": ("INT", {"default": 0})}}

    def load(self, seed: int) -> Any:
        return ((standins.Infinity(seed=seed), SimpleNamespace(pn="0.06M")),)


class Generate:
    """Hands out the bits in place of an image."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "generate"
    OUTPUT_NODE = True
    images: tuple[Any, ...] = ()

    @classmethod
    def INPUT_TYPES(cls) -> Any:
        return {"required": {"model": ("INFINITY_MODEL",), "seed": ("INT", {"default": 1})}}

    def generate(self, model: Any, seed: int) -> Any:
        infinity, _ = model
        Generate.images = (*Generate.images, generated(infinity, seed))
        return (Generate.images[-1],)


def generated(infinity: Any, seed: int) -> Any:
    return infinity.autoregressive_infer_cfg(
        B=1, g_seed=seed, scale_schedule=[(1, 1, 1), (1, 2, 2), (1, 4, 4)], cfg_list=[3.0] * 3, tau_list=[0.5] * 3,
        top_k=900, top_p=0.97, cfg_insertion_layer=[0],
    )  # fmt: skip


PACK = {"Infinity: Load model": LoadModel, "Infinity: Generate image": Generate}


def load_custom_node(folder: Path = FOLDER) -> dict[str, Any]:
    """The node classes of a folder, which is imported as ComfyUI imports it."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.NODE_CLASS_MAPPINGS)


def validate(classes: Mapping[str, Any], prompt: Prompt) -> None:
    for node in prompt.values():
        types = classes[node["class_type"]].INPUT_TYPES()
        for name, (kind, *options) in types["required"].items():
            assert name in node["inputs"], f"{name} is missing, of {kind} {options}"
        for name, (kind, *options) in {**types["required"], **types.get("optional", {})}.items():
            value = node["inputs"].get(name)
            if isinstance(value, list):
                source, output = value
                received = classes[prompt[source]["class_type"]].RETURN_TYPES[output]
                assert not received != kind, f"{name} takes {kind}, not {received}"  # noqa: SIM202
            elif isinstance(kind, list):
                assert value is None or value in kind, f"{name} is none of {kind}"
            elif value is not None and "min" in options[0]:
                assert options[0]["min"] <= value <= options[0]["max"], f"{name} is out of bounds"


def execute(classes: Mapping[str, Any], prompt: Prompt) -> dict[str, tuple[Any, ...]]:
    """The outputs of each node. A node that several others read runs once."""
    validate(classes, prompt)
    outputs: dict[str, tuple[Any, ...]] = {}

    def output(name: str) -> tuple[Any, ...]:
        if name not in outputs:
            node = prompt[name]
            inputs = {
                key: output(value[0])[value[1]] if isinstance(value, list) else value
                for key, value in node["inputs"].items()
            }
            made = classes[node["class_type"]]()
            outputs[name] = getattr(made, made.FUNCTION)(**inputs)
        return outputs[name]

    for name in prompt:
        output(name)
    return outputs
