"""The sampling benchmark: the samplers that it times draw right tokens, and a wrong token gets no figure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import sampling
from ssg_kernels import SSG, reference

SMALL = [
    replace(model, sizes=model.sizes[:3], cfgs=model.cfgs[-3:], top_ks=(5, 4, 2), vocabulary=vocabulary)
    for model in sampling.MODELS
    for vocabulary in [6 if model.classes else 40]
]
SMALL = [replace(model, top_ks=(2, 2, 1)) if model.classes else model for model in SMALL]


def run(monkeypatch: pytest.MonkeyPatch, out: Path, models: list[sampling.Model]) -> tuple[int, dict]:
    monkeypatch.setattr(sampling, "MODELS", models)
    code = sampling.main(["--budget", "0", "--out", str(out), "--models", *(model.name for model in models)])
    return code, json.loads(out.read_text(encoding="utf-8"))


def test_every_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = run(monkeypatch, tmp_path / "new" / "x.json", SMALL)
    assert code == 0
    assert len(document["results"]) == 3 * len(SMALL)
    for result in document["results"]:
        rows = {row["name"]: row for row in result["contenders"]}
        assert rows["ours"]["verdict"] == "exact"
        assert all(row["median_us"] > 0 for row in rows.values())
    text = capsys.readouterr().out
    assert all(f"{model.name}, B = 1" in text for model in SMALL)
    assert text.count("image ") >= len(SMALL)


@pytest.mark.parametrize("model", SMALL, ids=lambda model: model.name)
def test_guidance_is_that_of_merged_logits(model: sampling.Model) -> None:
    for k in (1, 2):
        logits, prev_logits = sampling.make_inputs(model, k, 1)
        guided = sampling.guidance(model, k)(logits, prev_logits)
        ssg = SSG(model.sizes, sampling.BETA)
        ssg.generation.remember(prev_logits[:1], None, k - 1)
        assert torch.equal(guided, ssg(logits[:1]))


def test_a_wrong_token_gets_no_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        sampling,
        "ours",
        lambda model, k: lambda x, p, u=None: torch.full(u.shape if u is not None else (1,), 7),
    )
    code, document = run(monkeypatch, tmp_path / "x.json", SMALL[:1])
    assert code == 1
    for result in document["results"][1:]:
        row = result["contenders"][1]
        assert (row["name"], row["verdict"]) == ("ours", "wrong")
        assert "median_us" not in row


@pytest.mark.parametrize("model", SMALL, ids=lambda model: model.name)
def test_upstream_draws_what_may_be_drawn(model: sampling.Model) -> None:
    for k in range(3):
        logits, prev_logits = sampling.make_inputs(model, k, 2)
        tokens = sampling.upstream(model, k)(logits.float(), prev_logits.float())
        cfg = model.cfgs[k]

        def merged(x: Tensor, cfg: float | None = cfg) -> Tensor:
            return x if cfg is None else (1 + cfg) * x[:2] - cfg * x[2:]

        rows = sampling.choices(merged(logits.float()), model)
        weights = reference.sample_weights(rows, model.top_ks[k], model.top_p, 1 / model.temperature)
        assert (weights.gather(-1, tokens[..., None]) > 0).all()
