"""The command on the toy recipe: what it writes, and what it says where something is wrong."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import standins, toy_recipe

from ssg_kernels.__main__ import main
from ssg_kernels.evaluate import outputs, pictures
from ssg_kernels.evaluate.folder import write
from ssg_kernels.evaluate.recipes import NAMES

Run = Callable[..., int]


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def chunks(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("chunks/**/*.npz"))}


def test_what_is_written(evaluate: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert evaluate("--beta", 0, 0.4, "--seeds", 0, 3, "--set", "top_k=900", "--keep", "png", "npz") == 0
    found = results(out)
    assert [row["setting"]["beta"] for row in found["rows"]] == [0.0, 0.4]
    plain, guided = found["rows"]
    assert plain["setting"]["prior"] is None
    assert guided["setting"] | {"beta": 0} == {
        "beta": 0, "prior": "dse", "interpolation": "bilinear", "schedule": "linear", "rescale": False,
        "cfg_order": "after", "temperature": 1.0, "cfg": 1.5, "top_k": 900, "smooth": False,
    }  # fmt: skip
    assert set(plain["metrics"]) == {"fid", "kid", "is", "precision", "recall"}
    for row in found["rows"]:
        for name, figure in row["metrics"].items():
            a, b = (row["seeds"][seed][name] for seed in ("0", "3"))
            assert figure["value"] == pytest.approx((a + b) / 2, rel=1e-12)
            assert figure["error"] == pytest.approx(abs(a - b) / 2, rel=1e-9, abs=1e-15)
    # Guidance makes toy images brighter, and so their distance grows.
    assert guided["metrics"]["fid"]["value"] > 2 * plain["metrics"]["fid"]["value"]
    assert found["best"] == 0
    assert found["repeat"]["versions"]["torch"] == torch.__version__
    assert found["repeat"]["arguments"]["images"] == 48
    assert "kid" in found["computed by"]
    samples = np.load(out / "samples" / "beta=0.4" / "seed3.npz")["arr_0"]
    assert samples.shape == (48, 8, 8, 3)
    for i in (0, 13, 47):
        expected = toy_recipe.image(3, i, 0.4).permute(1, 2, 0).numpy()
        assert (samples[i] == expected).all()
        assert (_png(out / "samples" / "beta=0.4" / "seed3" / f"{i:06d}.png") == expected).all()
    _check_report(out, found, capsys.readouterr().out)


def _png(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)


def _check_report(out: Path, found: dict[str, Any], printed: str) -> None:
    plain, guided = found["rows"]
    lines = list(csv.DictReader((out / "table.csv").open()))
    assert [float(line["fid"]) for line in lines] == [
        row["metrics"]["fid"]["value"] for row in (plain, guided)
    ]
    assert [line["fid paper"] for line in lines] == ["3.42", "3.27"]
    assert [line["is paper"] for line in lines] == ["275.6", ""]
    value, error = (plain["metrics"]["fid"][name] for name in ("value", "error"))
    text = f"{value:.3f} ± {error:.3f}"
    page, report = (out / "index.html").read_text(), (out / "report.md").read_text()
    assert f"| **beta=0** | {text} | 3.42 |" in report
    assert f"| **beta=0** | {text} | 3.42 |" in printed
    assert f'<tr class="best"><td>beta=0</td><td>{text}</td><td>3.42</td>' in page
    for name in ("fid_is.png", "images.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
        assert f'src="{name}"' in page
        assert f"({name})" in report


def test_the_grid(evaluate: Run, tmp_path: Path) -> None:
    arguments = "--beta 0 0.4 --prior dse spatial --rescale off on --temperature 0.8 1 --set cfg=1,2"
    assert evaluate(*arguments.split(), "--images", 12, "--metrics", "is") == 0
    settings = [row["setting"] for row in results(tmp_path / "out")["rows"]]
    # Without guidance, prior and rescale make no difference.
    assert len(settings) == 2 * 2 * (1 + 4)
    assert sum(setting["beta"] == 0 for setting in settings) == 4


def test_images_depend_on_their_number_and_the_seed_alone(evaluate: Run, tmp_path: Path) -> None:
    assert evaluate("--images", 30, "--keep", "npz", out=tmp_path / "few") == 0
    assert evaluate("--images", 48, "--keep", "npz", "--beta", 0, 0.4, out=tmp_path / "many") == 0
    few, many = (np.load(tmp_path / name / "samples/beta=0/seed0.npz")["arr_0"] for name in ("few", "many"))
    assert (few == many[:30]).all()


def test_it_resumes(evaluate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    out = tmp_path / "out"
    monkeypatch.setenv("TOY_FAIL", "24")
    assert evaluate("--beta", 0, 0.4) == 2
    err = capsys.readouterr().err
    assert (
        "2 of 8 chunks could not be made: images 24 to 35 of beta=0, seed 0 (tried 2 times, RuntimeError: out of"
        in err
    )
    assert "run the same command again" in err
    assert "long trace" not in err
    kept = chunks(out)
    assert len(kept) == 6
    assert not (out / "results.json").exists()
    monkeypatch.delenv("TOY_FAIL")
    assert evaluate("--beta", 0, 0.4) == 0
    assert kept.items() <= chunks(out).items()
    assert evaluate("--beta", 0, 0.4, out=tmp_path / "at once") == 0
    assert results(out)["rows"] == results(tmp_path / "at once")["rows"]


def test_a_chunk_that_fails_once_is_made_again(
    evaluate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = tmp_path / "once"
    once.touch()
    monkeypatch.setenv("TOY_FAIL_ONCE", str(once))
    assert evaluate() == 0
    assert not once.exists()


def test_a_damaged_chunk_is_made_again(evaluate: Run, tmp_path: Path) -> None:
    assert evaluate() == 0
    before = results(tmp_path / "out")["rows"]
    path = next((tmp_path / "out").rglob("chunks/**/*12.npz"))
    path.write_bytes(path.read_bytes()[:100])
    assert evaluate() == 0
    assert results(tmp_path / "out")["rows"] == before


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (["--images", 24], "was made with images 48, and now images is 24"),
        (["--seed", 1], "was made with seeds 0, and now seeds is 1"),
        (["--set", "cfg=2"], "was made with settings"),
        (["--beta", 0, 0.4], "was made with settings"),
        (
            ["--metrics", "fid"],
            "was made with metrics fid, kid, is, precision, recall, and now metrics is fid",
        ),
    ],
)
def test_a_changed_argument(
    changed: list[Any], sentence: str, evaluate: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate() == 0
    kept = chunks(tmp_path / "out")
    assert evaluate(*changed) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert "use another --out" in err
    assert chunks(tmp_path / "out") == kept
    assert evaluate() == 0


@pytest.mark.parametrize("room", [3, 9, 10], ids=["chunks", "results", "pictures"])
def test_a_full_disk(
    room: int, evaluate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The arguments take one file, and the chunks eight."""
    sync, written = os.fsync, []

    def full(file: int) -> None:
        written.append(file)
        if len(written) > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    assert evaluate("--images", 96) == 2
    err = capsys.readouterr().err
    assert "could not be written: No space left on device. Everything written before is kept" in err
    assert len(written) == room + 1  # It does not go on trying.
    kept = chunks(tmp_path / "out")
    assert len(kept) == min(room - 1, 8)
    assert not list((tmp_path / "out").rglob("*.unfinished"))
    monkeypatch.undo()
    assert main(["evaluate", toy_recipe.__file__, "--out", str(tmp_path / "out"), "--images", "96"]) == 0
    assert kept.items() <= chunks(tmp_path / "out").items()


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, b"old")

    def broken(file: Any) -> None:
        file.write(b"new")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write(path, broken)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--weights", "missing.pth"], "there are no weights missing.pth"),
        (["--set", "colour=1"], "--set colour: the recipe has no such option; it has cfg, top_k, smooth"),
        (["--set", "top_k=x"], "--set top_k: must be a int such as 900, got 'x'"),
        (["--metrics", "sfid"], "--metrics sfid: choose from fid, kid, is, precision, recall, clip_score"),
        (["--images", 3], "metrics need more than 4 images, got --images 3"),
        (["--reference", "nowhere"], "--reference nowhere is neither a folder nor a file"),
    ],
)
def test_refuses(
    arguments: list[Any], sentence: str, evaluate: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(*arguments) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name a recipe: demo, var,"),
        (["nothing", "--out", "x"], "'nothing' is no recipe; choose one of demo, var,"),
        (["nothing.py", "--out", "x"], "there is no file nothing.py"),
        (["demo"], "name a folder for the results: --out DIR"),
        ([__file__, "--out", "x"], "must define exactly one class that derives from Recipe, found 0"),
    ],
)
def test_refuses_the_recipe(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_an_out_that_is_a_file(evaluate: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert evaluate(out=tmp_path / "file") == 2
    assert "cannot write to --out" in capsys.readouterr().err


def test_packages_that_are_missing(
    evaluate: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    assert evaluate() == 2
    assert "pip install 'ssg-kernels[evaluate]'" in capsys.readouterr().err


def test_dry_run(evaluate: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--dry-run", "--beta", 0, 0.4, "--seeds", 0, 1) == 0
    out = capsys.readouterr().out
    assert "2 settings x 2 seeds x 48 images = 192 images, in 16 chunks of 12" in out
    assert "without guidance: " in out
    assert "with guidance: " in out
    assert not (tmp_path / "out").exists()


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--list"]) == 0
    out = capsys.readouterr().out
    for name in NAMES:
        assert f"\n{name}: " in f"\n{out}"
    assert "Table 1: VAR-d16: fid 3.42, is 275.6" in out
    assert "Table 4: HART-0.7B + SSG: fid 7.28, clip_score 0.2834" in out


def test_the_recipe_in_the_documentation(
    evaluate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Model(standins.Var):
        def sample(self, labels: list[int], seed: int, cfg: float, top_k: int) -> torch.Tensor:
            made = self.autoregressive_infer_cfg(len(labels), labels, g_seed=seed, cfg=cfg, top_k=top_k)
            return made[:, :27].flatten(1)[:, :147].sigmoid().view(-1, 3, 7, 7)

    project = types.ModuleType("my_project")
    project.load_model = lambda path: Model()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_project", project)
    monkeypatch.setattr(outputs, "inception", lambda device: toy_recipe.network)
    page = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "my_model.py").write_text(code)
    reference = toy_recipe.Toy().reference()
    np.savez(tmp_path / "reference.npz", arr_0=torch.cat(list(reference)).permute(0, 2, 3, 1).numpy())
    given = ["--weights", tmp_path, "--reference", tmp_path / "reference.npz", "--set", "top_k=9"]
    kept: dict[str, np.ndarray] = {}
    for images in (60, 70):
        out = tmp_path / f"out{images}"
        run = [*given, "--images", images, "--beta", 0, 2, "--keep", "npz"]
        assert evaluate(*run, out=out, recipe=str(tmp_path / "my_model.py")) == 0
        for name in ("beta=0", "beta=2"):
            made = np.load(out / "samples" / name / "seed0.npz")["arr_0"]
            assert (made[:60] == kept.setdefault(name, made)[:60]).all()
    assert (kept["beta=0"] != kept["beta=2"]).any()


def test_curves_start_without_guidance() -> None:
    rows = [
        {"setting": {"beta": beta, "prior": prior if beta else None, "temperature": temperature}}
        for temperature in (0.8, 1.0)
        for beta, prior in ((0.0, ""), (0.2, "dse"), (0.4, "dse"), (0.2, "spatial"))
    ]
    curves = pictures._curves(rows, "beta")
    assert list(curves) == [
        f"prior={prior}, temperature={t}" for t in (0.8, 1.0) for prior in ("dse", "spatial")
    ]
    found = [[row["setting"]["beta"] for row in points] for points in curves.values()]
    assert found == [[0.2, 0.4, 0.0], [0.2, 0.0]] * 2
    assert [len(points) for points in pictures._curves(rows[:1], "beta").values()] == [1]
