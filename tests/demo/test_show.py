"""`python -m ssg_kernels demo`: its options, its pictures and what it prints."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ssg_kernels.__main__ import main
from ssg_kernels.demo import data, figures, show


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "EACH", 24)
    options = "--beta 0.4 --prior dse_zero_pad --seed 1 --classes 3,striped*disc --out".replace("*", " ")
    assert main(["demo", *re.split(r" (?!disc)", options), str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^ +\d+ +(\d+)x\1 ", out, re.M) == ["1", "2", "3", "4", "5", "6", "8"]
    assert "Generating 4 x 24 images" in out
    rows = re.findall(r"^(nothing|SSG|cfg|cfg and SSG) +([\d.]+)% +([\d.]+) +(7|14)$", out, re.M)
    assert [(name, passes) for name, _, _, passes in rows] == [
        ("nothing", "7"), ("SSG", "7"), ("cfg", "14"), ("cfg and SSG", "14"),
    ]  # fmt: skip
    for name in ("images.png", "spectrum.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
        assert str(tmp_path / "out" / name) in out


def test_classes() -> None:
    assert show.classes_of("") == list(range(len(data.CLASSES)))
    assert show.classes_of("3, striped disc") == [3, 0]


@pytest.mark.parametrize("text", ["12", "blue disc", "-1"])
def test_unknown_classes(text: str) -> None:
    with pytest.raises(ValueError, match=r"names or numbers of 0 striped disc, .*; got '"):
        show.classes_of(text)


def test_demo_says_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("ssg_kernels.demo.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("ssg_kernels.demo.show")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert main(["demo"]) == 2
    assert "safetensors" in (err := capsys.readouterr().err)
    assert "pip install 'ssg-kernels[demo]'" in err


def test_wrong_images_are_framed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[np.ndarray] = []
    monkeypatch.setattr(figures.plt.Axes, "imshow", lambda self, image, **_: drawn.append(image))
    images, wrong = torch.zeros(2, 3, 3, 4, 4), torch.zeros(2, 3, dtype=torch.bool)
    wrong[1, 2] = True
    figures.grids({"a": images}, ["x", "y"], tmp_path / "a.png", {"a": wrong})
    (picture,) = drawn
    is_red = (picture[..., 0] > 0.8) & (picture[..., 1] == 0)
    assert is_red.sum() == 8 * 8 - 4 * 4
    assert is_red[8:, 16:].sum() == is_red.sum()
