"""Training resumes after an interruption, and the plan decides what it makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.demo_models import tensors

from ssg_kernels.demo import weights
from ssg_kernels.demo.tokenizer import TokenizerConfig
from ssg_kernels.demo.weights import Models
from study import train as module
from study.train import Plan, train

PLAN = Plan(
    classifier_steps=5, tokenizer_steps=5, transformer_steps=5, batch=12, transformer_batch=12, coded=24
)


def new() -> Models:
    torch.manual_seed(0)
    return weights.new(TokenizerConfig((1, 2, 8), vocabulary=16, latent=4, width=16, blocks=1), 16, 1, 1)


@pytest.fixture(autouse=True)
def _checkpoints_every_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKPOINT", 2)
    monkeypatch.setattr(module, "REVIVE", 2)


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = new(), new()
    train(PLAN, whole, tmp_path / "whole")
    write, left = module._write, 0

    def cutting(state: dict[str, object], path: Path) -> None:
        nonlocal left
        write(state, path)
        left -= 1
        if not left:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write", cutting)
    # There are two checkpoints per network, and the codes. Each run is interrupted after its second write.
    for _ in range(3):
        left = 2
        with pytest.raises(KeyboardInterrupt):
            train(PLAN, cut, tmp_path / "cut")
        cut = new()
    left = 0
    train(PLAN, cut, tmp_path / "cut")
    assert tensors(cut).keys() == tensors(whole).keys()
    for name, tensor in tensors(whole).items():
        assert torch.equal(tensors(cut)[name], tensor), name


def test_training_changes_every_network_and_the_seed_matters(tmp_path: Path) -> None:
    before, after, other = new(), new(), new()
    train(PLAN, after, tmp_path / "0")
    train(replace(PLAN, seed=1), other, tmp_path / "1")
    for name in vars(before):
        a, b, c = (
            torch.cat([p.flatten() for p in vars(m)[name].parameters()]) for m in (before, after, other)
        )
        # The trained weights were rounded to float16 when they were saved.
        assert (a.half() != b.half()).any()
        assert (b != c).any()


def test_a_folder_of_another_plan_is_refused(tmp_path: Path) -> None:
    train(PLAN, new(), tmp_path)
    with pytest.raises(ValueError, match=r'holds a run of plan \{.*"seed": 0\}, not of \{.*"seed": 1\}'):
        train(replace(PLAN, seed=1), new(), tmp_path)


def test_another_tokenizer_means_other_codes(tmp_path: Path) -> None:
    train(PLAN, new(), tmp_path)
    codes = torch.load(tmp_path / "codes.pt", weights_only=True)["tokens"]
    for name in ("tokenizer", "transformer"):
        (tmp_path / f"{name}.safetensors").unlink()
        (tmp_path / f"{name}.pt").unlink(missing_ok=True)
    torch.manual_seed(5)
    models = weights.new(TokenizerConfig((1, 2, 8), vocabulary=16, latent=4, width=16, blocks=1), 16, 1, 1)
    train(PLAN, models, tmp_path)
    again = torch.load(tmp_path / "codes.pt", weights_only=True)["tokens"]
    assert not torch.equal(codes, again)
