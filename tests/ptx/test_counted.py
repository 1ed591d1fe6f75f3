"""`bench.counted`: what it counts, the model on top, and the committed figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.executed import require_nvcc
from support.ptx_text import run, words

from bench import counted
from bench.ptx import cuda, model, rates, steps
from bench.ptx.counts import Counts, wavefronts
from bench.ptx.model import Launched
from bench.ptx.resources import Resources

require_nvcc()

COMMITTED = sorted((Path(counted.__file__).parent / "results").glob("counted-*.json"))
# One that takes a second.
CHEAP = ("5->6", "VAR-256")


def words_at(*addresses: int) -> tuple[int, int]:
    where = np.resize(np.array(addresses), 32)
    return wavefronts(np.arange(32), where, 4)


def test_wavefronts_of_a_request() -> None:
    lanes = np.arange(32)
    assert wavefronts(lanes, 4 * lanes, 4) == (1, 1)
    assert wavefronts(lanes, 0 * lanes, 4) == (1, 1)  # one word for all
    assert wavefronts(lanes, 8 * lanes, 4) == (2, 1)
    assert wavefronts(lanes, 128 * lanes, 4) == (32, 1)
    assert wavefronts(lanes, 132 * lanes, 4) == (1, 1)
    assert wavefronts(lanes, 2 * lanes, 2) == (1, 1)  # two lanes a word
    assert wavefronts(lanes, 8 * lanes, 8) == (2, 2)
    assert wavefronts(lanes, 16 * lanes, 16) == (4, 4)
    assert wavefronts(lanes, 128 * lanes, 16) == (32, 4)
    assert wavefronts(lanes[:3], 128 * lanes[:3], 4) == (3, 1)
    assert wavefronts(np.arange(64), 4 * np.arange(64), 4) == (2, 2)  # of two warps
    assert words_at(0, 128) == (2, 1)


def test_counts_of_a_small_kernel() -> None:
    counts = Counts()
    body = """
    st.shared.u32 [%r1], %r0; bar.sync 0;
    setp.lt.u32 %p1, %r0, 5; @%p1 bra end; add.u32 %r2, %r0, 1; st.global.u32 [%d4], %r2;
    end:"""
    run(body, words(), torch.zeros(64, dtype=torch.int32), counts=counts, blocks=1)
    # Two warps: mov, mul, two adds, shl and two parameters, then the body's, and ret.
    assert counts.blocks == 1
    assert counts.barriers == 1
    assert counts.instructions["mov"] == 2
    assert counts.instructions["parameter"] == 4
    assert counts.instructions["shared"] == 2
    assert counts.instructions["global"] == 2
    assert counts.instructions["branch"] == 2 + 2
    assert counts.instructions["synchronisation"] == 2
    assert counts.instructions["integer"] == 2 * 4 + 2 + 2
    assert counts.issued == sum(counts.instructions.values()) - 2
    assert (counts.wavefronts, counts.fewest) == (2, 2)
    # Lanes 5 to 31 touch four sectors, and so do the other warp's.
    assert counts.sectors == {"out stored": 8}
    assert counts.requested == {"out stored": 4 * 59}


def test_the_largest_of_what_binds() -> None:
    card = rates.CARDS["sm_90"]
    counts = Counts(blocks=2)
    counts.instructions.update({"integer": 3000, "mov": 500})
    counts.wavefronts = 900
    counts.products["tf32"] = 10 * 635
    launch = Launched(
        blocks=2 * 132, threads=128, shared_bytes=0, resources=Resources(64, 0, 0, ()), outputs=132 * 2 * 1000,
        bytes=43, bytes_of_map=0, uses_wide_products=False,
    )  # fmt: skip
    found = model.times(counts, launch, card)
    cycle = 1e6 / card.clock
    assert found.issue == pytest.approx(1000 * cycle)
    assert found.shared == pytest.approx(900 * cycle)
    assert found.matrix == pytest.approx(10.0 * cycle, rel=1e-3)
    assert found.memory == pytest.approx(43 / 4.3e6)
    assert found.binds == "issue"
    assert found.counted == pytest.approx(1000 * cycle)


def test_blocks_that_follow_one_another_wait_in_turn() -> None:
    card = rates.CARDS["sm_90"]
    counts = Counts(blocks=1, latency=1000.0, first_latency=1300.0)
    facts: dict[str, Any] = {
        "threads": 1024,
        "shared_bytes": 0,
        "resources": Resources(32, 0, 0, ()),
        "outputs": 1,
    }
    facts |= {"bytes": 1, "bytes_of_map": 0, "uses_wide_products": False}
    for blocks, rounds, cycles in ((132, 1.0, 1300), (264, 1.0, 1300), (265, 1.0, 2300), (132, 3.0, 3300)):
        found = model.times(counts, Launched(blocks, **facts, rounds=rounds), card)
        assert found.latency == pytest.approx(cycles * 1e6 / card.clock)
        assert found.binds == "latency"


def test_a_block_alone_waits_for_its_map() -> None:
    card = rates.CARDS["sm_90"]
    facts: dict[str, Any] = {
        "blocks": 264,
        "threads": 512,
        "resources": Resources(64, 0, 0, ()),
        "outputs": 1,
        "bytes": 4_300,
    }
    for shared_bytes, waits in ((200 << 10, 0.0002), (90 << 10, 0.0)):
        launch = Launched(**facts, shared_bytes=shared_bytes, bytes_of_map=860, uses_wide_products=False)
        assert model.times(Counts(blocks=1), launch, card).exposed == pytest.approx(waits)


def test_a_wrong_kernel_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(each for each in counted.CASES if (each.name, each.of) == CHEAP)
    monkeypatch.setattr(steps, "OPTIONS", ("dse", "nearest", False))
    with pytest.raises(RuntimeError, match="the executed kernel is wrong"):
        counted.count(case, "sm_90", "cuda")


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_figures_are_what_is_executed(path: Path) -> None:
    """After a change to the kernels: python -m bench.counted --target ... --backend ... --json FILE."""
    committed = json.loads(path.read_text())
    backend, target = committed["backend"], committed["target"]
    if backend == "triton":
        pytest.importorskip("triton")
    assert [(row["step"], row["dtype"]) for row in committed["rows"]] == [
        (case.name, str(case.dtype).removeprefix("torch.")) for case in counted.CASES
    ]
    case = next(each for each in counted.CASES if (each.name, each.of) == CHEAP)
    expected = next(row for row in committed["rows"] if (row["step"], row["of"]) == CHEAP)
    compiler = "nvcc" if backend == "cuda" else "triton"
    if counted.versions(backend)[compiler] != committed["versions"][compiler]:
        pytest.skip(f"another version of {compiler} made the committed figures")
    found = counted.count(case, target, backend)
    # Another assembler may give other registers, but the PTX and what it does are the same.
    names = [name for name in expected if name not in ("registers", "spilled_bytes", "machine_code", "error")]
    assert {name: found[name] for name in names} == {name: expected[name] for name in names}


# Warp instructions of a row at most.
MOST_OF_A_ROW = {
    "top_k and top_p": 6000,
    "top_k": 5000,
    "top_p": 8000,
    "neither": 5000,
    "top_k and top_p, nearly flat": 12000,
    "top_k and top_p, all equal": 12000,
    "bits": 140 / 32,
}


@pytest.mark.parametrize("kind", counted.SAMPLING, ids=lambda kind: kind[0])
def test_committed_figures_of_sampling(kind: tuple[str, int, int, int, float, float]) -> None:
    committed = json.loads(next(path for path in COMMITTED if path.stem == "counted-sm_90-cuda").read_text())
    expected = next(row for row in committed["sampling"] if row["kind"] == kind[0])
    if counted.versions("cuda")["nvcc"] != committed["versions"]["nvcc"]:
        pytest.skip("another version of nvcc made the committed figures")
    found = counted.count_sampling(kind, "sm_90", "cuda")
    assert found == expected
    assert found["warp_instructions_per_row"] <= round(MOST_OF_A_ROW[kind[0]], 1)


def test_every_target_has_a_card() -> None:
    assert set(rates.CARDS) == {"sm_80", "sm_90", "sm_100", "sm_120"}
    assert cuda.compiler() is not None
