"""`examples/own_model`: an integration outside of this package, written with its public names."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support.generation_checks import CHECKS
from support.guided_samplers import Sampler

import ssg_kernels
from bench.schedules import square
from ssg_kernels import integrations

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "own_model"
SIDES, CFG = (1, 2, 3, 4), 2.0


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules, and the entry points of its pyproject.toml as an installation would leave them."""
    pyproject = configparser.ConfigParser()
    pyproject.read_string((FOLDER / "pyproject.toml").read_text())
    group = 'project.entry-points."ssg_kernels.integrations"'
    points = "".join(f"{name} = {value.strip(chr(34))}\n" for name, value in pyproject[group].items())
    metadata = tmp_path / "own_model-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own-model\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[ssg_kernels.integrations]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(FOLDER))
    import own_model

    return own_model


def an_own_model(module: Any) -> Sampler:
    torch.manual_seed(0)

    def merge(scale: int, raw: torch.Tensor, batch: int) -> torch.Tensor:
        cond, uncond = raw[:batch], raw[batch:]
        return uncond + CFG * (cond - uncond)

    return Sampler(
        ssg_kernels.attach,
        module.OwnModel(),
        lambda model, batch, seed: model.generate(batch, SIDES, CFG, seed),
        square(SIDES),
        vars(module),
        merge,
        makers=("predict",),
        sampler="draw",
    )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_own_model(installed: Any, check: Any) -> None:
    check(lambda: an_own_model(installed))


def test_it_is_found_by_its_entry_point(installed: Any) -> None:
    model = installed.OwnModel()
    context = ssg_kernels.attach(model, 0.5)
    assert context.integration == "guided_own_model"
    assert repr(context) == "guided_own_model.attach(OwnModel.generate)"
    import guided_own_model

    with pytest.raises(ValueError, match=r"^guided_own_model: object has no generate$"):
        guided_own_model.attach(object(), 0.5)


def test_without_it_the_message_says_how_to_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import own_model

    with pytest.raises(
        ValueError, match=r"subclass ssg_kernels\.integrations\.NextScale \(docs/integrations/own\.md\)"
    ):
        ssg_kernels.attach(own_model.OwnModel(), 0.5)


def test_it_needs_twenty_lines_and_public_names_only() -> None:
    source = (FOLDER / "guided_own_model.py").read_text()
    assert len(source.splitlines()) <= 20
    imported = re.findall(r"^from ([\w.]+) import (.+)$", source, re.M)
    assert [module for module, _ in imported] == ["ssg_kernels.integrations"]
    assert set(imported[0][1].split(", ")) <= set(integrations.__all__)
