"""The ComfyUI node on a stand-in of ComfyUI, and what its folder must hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from support import standins
from support.comfyui import FOLDER, PACK, Prompt, execute, generated, load_custom_node

import ssg_kernels

NODE = "ScaledSpatialGuidance"


@pytest.fixture(scope="module")
def classes() -> dict[str, Any]:
    return {**PACK, **load_custom_node()}


def a_prompt(*settings: dict[str, Any]) -> Prompt:
    """A loader, a generator that reads its model, and for each of the settings a node with a generator behind it."""
    prompt: dict[str, Any] = {
        "load": {"class_type": "Infinity: Load model", "inputs": {"seed": 0}},
        "plain": {"class_type": "Infinity: Generate image", "inputs": {"model": ["load", 0], "seed": 1}},
    }
    for k, inputs in enumerate(settings):
        node = {"model": ["load", 0], "beta": 0.75, "schedule": "linear", "prior": "dse", **inputs}
        prompt[f"ssg{k}"] = {"class_type": NODE, "inputs": node}
        prompt[f"guided{k}"] = {
            "class_type": "Infinity: Generate image",
            "inputs": {"model": [f"ssg{k}", 0], "seed": 1},
        }
    return prompt


SETTINGS = [
    {},
    {"schedule": "static", "prior": "dse_zero_pad", "rescale": True},
    {"prior": "spatial", "interpolation": "bicubic", "cfg_order": "before", "beta": -0.5},
]


def test_each_branch_of_a_graph_has_its_own_guidance(classes: dict[str, Any]) -> None:
    outputs = execute(classes, a_prompt(*SETTINGS, {"beta": 0.0}))
    model = standins.Infinity()
    plain = generated(model, 1)
    assert torch.equal(outputs["plain"][0], plain)
    assert torch.equal(outputs["guided3"][0], plain)
    for k, settings in enumerate(SETTINGS):
        with ssg_kernels.attach(model, **{"beta": 0.75, **settings}):
            expected = generated(model, 1)
        assert not torch.equal(expected, plain)
        assert torch.equal(outputs[f"guided{k}"][0], expected)


def test_the_last_node_of_a_chain_counts(classes: dict[str, Any]) -> None:
    outputs = execute(classes, a_prompt({}, {"model": ["ssg0", 0], "beta": -0.5}, {"beta": -0.5}))
    assert torch.equal(outputs["guided1"][0], outputs["guided2"][0])
    assert not torch.equal(outputs["guided0"][0], outputs["guided1"][0])


def test_a_guided_model_is_the_model_in_all_else(classes: dict[str, Any]) -> None:
    model = standins.Infinity()
    (guided,) = classes[NODE]().guide(model, beta=0.75)
    assert guided.codebook is model.codebook
    assert list(guided.parameters()) == list(model.parameters())
    guided.rng = 3
    assert model.rng == 3
    # What returns the model returns the guided one, so that guidance cannot get lost in silence.
    assert guided.to("cpu").eval() is guided
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        guided.nothing  # noqa: B018
    pipeline = standins.SwittiPipeline(standins.NextScale())
    (guided,) = classes[NODE]().guide(pipeline, beta=0.75)
    plain = pipeline(["a"], seed=0)
    with ssg_kernels.attach(pipeline, 0.75):
        expected = pipeline(["a"], seed=0)
    assert torch.equal(guided(["a"], seed=0), expected)
    assert torch.equal(pipeline(["a"], seed=0), plain)


def test_what_cannot_be_guided_is_told(classes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no integration takes this Linear"):
        classes[NODE]().guide((torch.nn.Linear(1, 1), None), beta=0.5)
    with pytest.raises(ValueError, match="prior must be one of"):
        classes[NODE]().guide(standins.Infinity(), beta=0.5, prior="x")


def test_the_folder() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader")
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    assert project["project"]["version"] == ssg_kernels.__version__
    requirements = (FOLDER / "requirements.txt").read_text().split()
    assert requirements == project["project"]["dependencies"] == ["ssg-kernels"]


def test_the_example_workflow_fits_the_node(classes: dict[str, Any]) -> None:
    (path,) = (FOLDER / "example_workflows").glob("*.json")
    workflow = json.loads(path.read_text())
    (node,) = (node for node in workflow["nodes"] if node["type"] == NODE)
    types = classes[NODE].INPUT_TYPES()
    model, *widgets = {**types["required"], **types["optional"]}.items()
    assert [slot["name"] for slot in node["inputs"]] == [model[0]]
    assert node["widgets_values"] == [options["default"] for _, (_, options) in widgets]
    ends = {(link[1], link[3]): link[5] for link in workflow["links"]}
    others = {node["type"]: node["id"] for node in workflow["nodes"]}
    assert ends[others["Infinity: Load model"], node["id"]] == "INFINITY_MODEL"
    assert (node["id"], others["Infinity: Generate image"]) in ends
