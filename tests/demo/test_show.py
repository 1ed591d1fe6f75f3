"""`python -m ssg_kernels demo`: its options, its pictures and what it prints."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from ssg_kernels.__main__ import main
from ssg_kernels.demo import data, show


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "EACH", 24)
    options = "--beta 0.4 --prior dse_zero_pad --seed 1 --classes 3,striped*disc --out".replace("*", " ")
    assert main(["demo", *re.split(r" (?!disc)", options), str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^ +\d+ +(\d+)x\1 ", out, re.M) == ["1", "2", "3", "4", "5", "6", "8"]
    assert "Generating 2 x 24 images" in out
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
