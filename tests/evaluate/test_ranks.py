"""Processes that are killed, and processes that share the work."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import toy_recipe

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = ("--images", "96", "--beta", "0", "0.4", "--metrics", "fid", "is")
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")


def start(
    out: Path, *launcher: str, recipe: str = toy_recipe.__file__, **environment: str
) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        *launcher,
        "-m",
        "ssg_kernels",
        "evaluate",
        recipe,
        "--out",
        str(out),
        *ARGUMENTS,
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    _, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    return err


def rows(out: Path) -> Any:
    return json.loads((out / "results.json").read_text())["rows"]


def chunks(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("chunks/**/*.npz"))}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise AssertionError("it took too long")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of one process that nobody disturbs."""
    out = tmp_path_factory.mktemp("alone")
    finish(start(out))
    return out


def test_killed_at_a_random_moment(alone: Path, tmp_path: Path) -> None:
    moment = random.Random()
    out = tmp_path / "out"
    for number in (1, 6):
        process = start(out, TOY_SLEEP="0.1")
        wait_for(lambda number=number: len(chunks(out)) >= number, process)
        time.sleep(moment.uniform(0, 0.2))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert 1 <= len(chunks(out)) < 16
    kept = chunks(out)
    finish(start(out))
    assert kept.items() <= chunks(out).items()
    assert chunks(out) == chunks(alone)
    assert rows(out) == rows(alone)


def test_stopped(tmp_path: Path) -> None:
    process = start(tmp_path / "out", TOY_SLEEP="0.2")
    wait_for(lambda: len(chunks(tmp_path / "out")) >= 1, process)
    process.send_signal(signal.SIGTERM)
    err = finish(process, 143)
    assert "it was told to stop (another rank may have died). The finished chunks are kept" in err
    assert "Traceback" not in err


def test_two_at_the_same_folder(tmp_path: Path) -> None:
    first = start(tmp_path / "out", TOY_SLEEP="0.2")
    wait_for(lambda: len(chunks(tmp_path / "out")) >= 1, first)
    assert "another evaluation is writing to" in finish(start(tmp_path / "out"), 2)
    finish(first)


def test_two_ranks(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    err = finish(start(out, *TORCHRUN))
    assert chunks(out) == chunks(alone)
    assert rows(out) == rows(alone)
    # One bar, on the first rank, over the images of both.
    assert err.count("192/192") == 1
    assert json.loads((out / "results.json").read_text())["repeat"]["ranks"] == 2


def test_a_rank_that_dies(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(out, *TORCHRUN, TOY_SLEEP="0.3")
    wait_for(lambda: len(chunks(out)) >= 3, process)
    ranks = [int(pid) for pid in _children(process.pid)]
    assert len(ranks) == 2
    os.kill(max(ranks), signal.SIGKILL)
    err = finish(process, 1)
    assert "evaluate (rank 0): " in err
    assert "The finished chunks are kept" in err
    kept = chunks(out)
    assert 3 <= len(kept) < 16
    finish(start(out, *TORCHRUN))
    assert kept.items() <= chunks(out).items()
    assert rows(out) == rows(alone)


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_chunk_that_fails_on_one_rank(tmp_path: Path) -> None:
    err = finish(start(tmp_path / "out", *TORCHRUN, TOY_FAIL="12"), 1)
    assert "2 of 16 chunks could not be made: images 12 to 23 of beta=0, seed 0" in err
    assert len(chunks(tmp_path / "out")) == 14
