"""The benchmark: its arithmetic, its baselines, and that a wrong result gets no figure."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor

from bench import __main__ as command
from bench import baselines, cases, check, fft_dct, machine, memory, plot, report, run, summary, timing
from bench.baselines import Contender
from bench.cases import BETA, Case
from bench.timing import Budget, Rotation
from ssg_kernels import reference

SMALL = Case("small", "test", (3, 5), (5, 7), batch=2, vocab=32)
SMALL_SINGLE = Case("small-b1", "test", (3, 4), (10, 9), batch=1, vocab=32)
SMALL_CFG = Case("small-cfg", "test", (3, 5), (5, 7), batch=2, vocab=32, cfg=True)
INSTANT = Budget(seconds=0.0, warmup=0.0, block=1e-6, min_samples=5)


@pytest.mark.parametrize("n", [1, 2, 5, 12])
@pytest.mark.parametrize("q", [0, 20, 50, 80, 100])
def test_percentile(n: int, q: float) -> None:
    samples = np.random.default_rng(n).random(n).tolist()
    assert timing.percentile(samples, q) == pytest.approx(np.percentile(samples, q), rel=1e-12)


def test_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no samples"):
        timing.percentile([], 50)


def test_schedule_spreads_the_slow_over_the_run() -> None:
    order = timing.schedule({"fast": 100, "middle": 33, "slow": 5})
    assert [order.count(name) for name in ("fast", "middle", "slow")] == [100, 33, 5]
    slow = [i / len(order) for i, name in enumerate(order) if name == "slow"]
    assert all(0.15 < b - a < 0.25 for a, b in pairwise(slow))
    assert timing.schedule({}) == []


def test_sample_counts() -> None:
    budget = Budget(seconds=1.0, min_samples=5, max_samples=100)
    assert timing.sample_count(2.0, budget) == 5
    assert timing.sample_count(0.02, budget) == 50
    assert timing.sample_count(0.001, budget) == 100
    assert timing.calls_per_sample(3e-6, 200e-6) == 67
    assert timing.calls_per_sample(1.0, 200e-6) == 1


def test_rotation_warm_keeps_a_set_for_a_sample_and_its_values() -> None:
    sets = [(torch.randn(3), torch.randn(2)) for _ in range(2)]
    before = [(a.clone(), b.clone()) for a, b in sets]
    rotation = Rotation(sets, cold=False)
    taken = [rotation.take(3) for _ in range(3)]
    assert [[s is sets[i % 2] for s in sample] for i, sample in enumerate(taken)] == [[True] * 3] * 3
    assert all(
        torch.equal(x, y)
        for now, then in zip(sets, before, strict=True)
        for x, y in zip(now, then, strict=True)
    )
    assert all(tensor._version > 0 for pair in sets for tensor in pair)


def test_rotation_cold_takes_the_set_touched_longest_ago() -> None:
    sets = [(torch.full((1,), float(i)), torch.zeros(1)) for i in range(5)]
    rotation = Rotation(sets, cold=True)
    taken = [int(logits) for n in (3, 1, 4) for logits, _ in rotation.take(n)]
    assert taken == [0, 1, 2, 3, 4, 0, 1, 2]


@pytest.mark.parametrize(
    ("size", "l3", "sets"), [(1 << 20, 32 << 20, 129), (200 << 20, 32 << 20, 2), (64, 256, 17)]
)
def test_cold_sets_exceed_four_times_the_cache(size: int, l3: int, sets: int) -> None:
    assert run.cold_sets(size, l3) == sets
    assert sets * size > 4 * l3


def test_measure_counts_and_orders() -> None:
    calls = {"slow": 0, "fast": 0}

    def slow(*_: Tensor) -> None:
        calls["slow"] += 1
        time.sleep(2e-3)

    def fast(*_: Tensor) -> None:
        calls["fast"] += 1

    seen: list[tuple[int, int]] = []
    timings = timing.measure(
        {"slow": slow, "fast": fast},
        Rotation([(torch.zeros(1), torch.zeros(1))], cold=False),
        Budget(seconds=0.01, warmup=0.0, block=100e-6, min_samples=5, max_samples=20),
        lambda done, total: seen.append((done, total)),
    )
    total = sum(result.n for result in timings.values())
    assert seen == [(i + 1, total) for i in range(total)]
    assert timings["slow"].n == 5
    assert timings["slow"].calls == 1
    assert (
        2e-3
        <= timings["slow"].minimum
        <= timings["slow"].p20
        <= timings["slow"].median
        <= timings["slow"].p80
    )
    assert timings["fast"].calls > 1
    assert timings["fast"].median < 1e-4
    assert calls["slow"] == 5 + 2
    assert calls["fast"] > timings["fast"].n * timings["fast"].calls


def test_bytes_moved() -> None:
    step = Case("x", "x", (13, 13), (16, 16), batch=2, vocab=4096)
    assert step.bytes_moved(torch.float32) == 4 * 4096 * 2 * (2 * 256 + 169)
    assert step.bytes_moved(torch.bfloat16) * 2 == step.bytes_moved(torch.float32)
    merged = Case("x", "x", (13, 13), (16, 16), batch=2, vocab=4096, cfg=True)
    assert merged.bytes_moved(torch.float32) == 4 * 4096 * 2 * (3 * 256 + 2 * 169)


def test_select() -> None:
    assert [case.name for case in cases.select(["var512*", "var256-1-2"])] == ["var256-1-2", "var512-24-32"]
    assert cases.select(None) == list(cases.CASES)
    assert len({case.name for case in cases.CASES}) == len(cases.CASES)
    assert {case.name for case in cases.select(cases.QUICK)} == set(cases.QUICK)
    with pytest.raises(ValueError, match="no case matches 'var1024'"):
        cases.select(["var1024"])


@pytest.mark.parametrize("n", [1, 2, 3, 8, 13, 16])
def test_fft_dct_is_scipys(n: int) -> None:
    x = torch.randn(2, n, n + 3, dtype=torch.float64)
    want = scipy.fft.dctn(x.numpy(), axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(fft_dct.dct_2d(x).numpy(), want, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fft_dct.idct_2d(fft_dct.dct_2d(x)).numpy(), x.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("value", "dtype", "half"),
    [
        (1.0, torch.bfloat16, 2**-8),
        (-1.99, torch.bfloat16, 2**-8),
        (2.0, torch.bfloat16, 2**-7),
        (0.75, torch.bfloat16, 2**-9),
        (1.0, torch.float16, 2**-11),
        (0.0, torch.float16, 2**-25),
    ],
)
def test_half_ulp(value: float, dtype: torch.dtype, half: float) -> None:
    assert check.half_ulp(torch.tensor([value], dtype=torch.float64), dtype).item() == half


def guided(case: Case, inputs: Sequence[Tensor], **options: str | bool) -> Tensor:
    return reference.guided_logits(*inputs, case.size, case.prev_size, BETA, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_judge_takes_the_right_result(dtype: torch.dtype) -> None:
    inputs = cases.make_inputs(SMALL, dtype)[0]
    want = check.expected(SMALL, *inputs)
    accuracy = check.judge(want.to(dtype), want, dtype)
    assert accuracy.verdict == "exact"
    assert accuracy.equal_fraction == 1.0


def test_judge_marks_a_second_rounding() -> None:
    inputs = cases.make_inputs(SMALL, torch.bfloat16)[0]
    want = check.expected(SMALL, *inputs)
    # Two of a hundred elements are off by one unit in the last place: beyond the bound, but not wrong.
    got = want.bfloat16()
    bits = got.view(torch.int16).flatten()
    bits[::50] += 1
    accuracy = check.judge(got, want, torch.bfloat16)
    assert accuracy.verdict == "inexact"
    assert accuracy.equal_fraction == pytest.approx(0.98, abs=0.005)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda case, x, p, right: x, id="unguided"),
        pytest.param(lambda case, x, p, right: guided(case, (x, p), prior="spatial"), id="other-prior"),
        pytest.param(lambda case, x, p, right: guided(case, (x, p), prior="dse_zero_pad"), id="zero-padded"),
        pytest.param(lambda case, x, p, right: guided(case, (x, p), rescale=True), id="rescaled"),
        pytest.param(lambda case, x, p, right: guided(case, (x, p), interpolation="bicubic"), id="bicubic"),
        pytest.param(lambda case, x, p, right: right.roll(1, 1), id="tokens-shifted"),
        pytest.param(lambda case, x, p, right: right.roll(1, 0), id="samples-swapped"),
        pytest.param(lambda case, x, p, right: right.index_fill(2, torch.tensor([3]), torch.nan), id="nan"),
        pytest.param(
            lambda case, x, p, right: right.index_fill(2, torch.tensor([3]), 0.0), id="column-missing"
        ),
        pytest.param(lambda case, x, p, right: right.double(), id="other-dtype"),
        pytest.param(lambda case, x, p, right: right[:1], id="other-shape"),
    ],
)
def test_judge_refuses(wrong: object, dtype: torch.dtype) -> None:
    inputs = cases.make_inputs(SMALL, dtype)[0]
    want = check.expected(SMALL, *inputs)
    assert callable(wrong)
    accuracy = check.judge(wrong(SMALL, *inputs, want.to(dtype)), want, dtype)
    assert accuracy.verdict == "wrong"
    assert accuracy.reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", [SMALL, SMALL_SINGLE, SMALL_CFG], ids=lambda case: case.name)
def test_every_contender_is_right(case: Case, dtype: torch.dtype) -> None:
    inputs = cases.make_inputs(case, dtype)[0]
    want = check.expected(case, *inputs)
    verdicts = {}
    with torch.inference_mode():
        for contender in baselines.contenders(case, dtype, compile_too=False):
            got = contender.build(case, dtype, 1)(*inputs)
            if contender.checked:
                verdicts[contender.name] = check.judge(got, want, dtype).verdict
            else:
                assert torch.equal(got, inputs[0][: case.batch])
    assert {"ours", "ours_out", "naive_eager"} < verdicts.keys()
    rounded = {"baddbmm", "addmm", *(name for name in verdicts if name.startswith(("separable", "merge")))}
    rounded -= {"separable_float32"}
    for name, verdict in verdicts.items():
        assert verdict == "exact" or (verdict == "inexact" and dtype == torch.bfloat16 and name in rounded), (
            name
        )


def contender(name: str, family: str, result: Tensor | Exception) -> Contender:
    def step(*_: Tensor) -> Tensor:
        if isinstance(result, Exception):
            raise result
        return result

    return Contender(name, family, lambda case, dtype, outputs: step, name)


@pytest.fixture
def rigged(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Replaces the contenders: one is wrong, one raises, two return the right result; the copies stay."""
    inputs = cases.make_inputs(SMALL, torch.float32)[0]
    right = check.expected(SMALL, *inputs).float()
    copies = [c for c in baselines.CONTENDERS if c.family == "copy_fresh"]
    built = SimpleNamespace(
        ours=contender("ours", "ours", right),
        wrong=contender("baddbmm", "baddbmm", right * 1.001),
        broken=contender("separable_rows", "separable", RuntimeError("no")),
        right=contender("naive_eager", "naive_eager", right),
    )

    def rig(**changes: Contender) -> None:
        monkeypatch.setattr(baselines, "CONTENDERS", (*{**vars(built), **changes}.values(), *copies))

    rig()
    return SimpleNamespace(rig=rig, right=right)


def test_gate_gives_no_figure_to_a_wrong_contender(rigged: SimpleNamespace) -> None:
    result = run.run_case(SMALL, torch.float32, budget=INSTANT)
    rows = {row["name"]: row for row in result["contenders"]}
    assert rows["baddbmm"]["verdict"] == "wrong"
    assert rows["separable_rows"]["verdict"] == "failed"
    assert not any(
        key.endswith("_us") or key == "n" for row in ("baddbmm", "separable_rows") for key in rows[row]
    )
    assert {"median_us", "p20_us", "p80_us", "n"} < rows["ours"].keys()
    assert {"median_us", "over_copy", "copy_share"} < rows["naive_eager"].keys()
    assert not {"baddbmm", "separable", "best_torch"} & result["ratios"].keys()
    assert result["ratios"]["naive_eager"]["over_ours"] > 0
    assert [line.partition(":")[0] for line in report.refused([result])] == [
        "baddbmm on test, 3 → 5, B = 2, float32",
        "separable_rows on test, 3 → 5, B = 2, float32",
    ]
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize("right", [True, False])
def test_command_fails_where_ours_is_wrong(
    right: bool, rigged: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not right:
        rigged.rig(ours=contender("ours", "ours", rigged.right * 1.001))
    monkeypatch.setattr(command, "select", lambda patterns: [SMALL])
    monkeypatch.setattr(command.overhead, "measure_overhead", lambda budget: [])
    monkeypatch.setattr(command.plot, "draw", lambda document, path: None)
    out = tmp_path / "new" / "x.json"
    code = command.main(["--dtypes", "float32", "--budget", "0.001", "--no-memory", "--out", str(out)])
    assert code == (0 if right else 1)
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["versions"]["torch"] == torch.__version__
    assert "median_us" in document["results"][0]["contenders"][0] or not right
    table = report.markdown(document)
    assert ("| test, 3 → 5, B = 2 | wrong |" in table) is not right


def row(name: str, family: str, median: float, verdict: str = "exact") -> dict[str, object]:
    return {
        "name": name,
        "family": family,
        "verdict": verdict,
        "median_us": median,
        "p20_us": median,
        "p80_us": median,
    }


def test_ratios() -> None:
    rows = [
        row("ours", "ours", 10.0),
        row("ours_out", "ours_out", 8.0),
        row("baddbmm", "baddbmm", 20.0, "inexact"),
        row("baddbmm_float32", "baddbmm", 50.0),
        row("separable_rows", "separable", 40.0),
        row("separable_columns", "separable", 35.0),
        row("copy_out", "copy_out", 4.0, "not checked"),
        row("copy_fresh", "copy_fresh", 5.0, "not checked"),
    ]
    found = summary.ratios(rows)
    assert found["baddbmm"] == {"name": "baddbmm", "median_us": 20.0, "over_ours": 2.0}
    assert found["separable"] == {"name": "separable_columns", "median_us": 35.0, "over_ours": 3.5}
    assert found["best_torch"]["over_ours"] == 2.0
    assert found["best_exact_torch"]["over_ours"] == 3.5
    assert "naive_fft" not in found
    summary.add_bandwidth(rows, 100_000)
    ours, ours_out = rows[:2]
    assert (ours["gbytes_per_s"], ours["over_copy"], ours["copy_share"]) == (10.0, 2.0, 0.5)
    assert (ours_out["over_copy"], ours_out["copy_share"]) == (2.0, 0.5)


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (4.123, "4.12 µs"),
        (41.23, "41.2 µs"),
        (412.3, "412 µs"),
        (999.6, "1.00 ms"),
        (12_345, "12.3 ms"),
        (2e6, "2.00 s"),
    ],
)
def test_format_time(microseconds: float, text: str) -> None:
    assert report.format_time(microseconds) == text


def test_picture_and_points(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    case = cases.select(["var256-13-16"])[0]
    rows = [
        row("ours", "ours", 10.0),
        row("baddbmm", "baddbmm", 20.0, "inexact"),
        row("copy_fresh", "copy_fresh", 5.0),
    ]
    result = {"case": case.as_json(), "dtype": "float32", "caches": "warm", "contenders": rows}
    assert plot.points(result)["ours"] == (2.0, 2.0, 2.0, True)
    assert plot.points(result)["baddbmm"] == (4.0, 4.0, 4.0, False)
    document = {
        "results": [result],
        "run": {"date": "2000-01-01"},
        "machine": {"cpu": "a CPU", "torch_threads": 1},
        "versions": {"torch": "2"},
    }
    plot.draw(document, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no results with cold caches"):
        plot.draw(document, tmp_path / "x.png", "cold")


def test_peak_memory_counts_the_temporary_and_not_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("no /proc/self/clear_refs")
    temporary, kept_bytes = 64 << 20, 40 << 20
    case = Case("x", "x", (16, 16), (32, 32), vocab=4096)
    kept: list[Tensor] = []

    def step(logits: Tensor, prev: Tensor) -> Tensor:
        if logits.shape[1] == case.tokens and not kept:
            kept.append(torch.ones(kept_bytes // 4))
        torch.ones(temporary // 4)
        return logits + 1

    monkeypatch.setattr(baselines, "by_name", lambda name: Contender("x", "x", lambda *_: step, "x"))
    first, again = memory.peaks_beyond_output(case, torch.float32, "x")
    # The temporary is freed before the 16 MiB of the output are allocated, so it alone makes the peak.
    assert again == pytest.approx(temporary - case.output_bytes(torch.float32), abs=4 << 20)
    assert first == pytest.approx(again + kept_bytes, abs=4 << 20)


def test_parse_size() -> None:
    assert [machine.parse_size(text) for text in ("32K\n", "1M", "512")] == [32768, 1 << 20, 512]
