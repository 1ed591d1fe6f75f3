"""The clocks of warps: what they wait for, on small kernels whose times are known."""

from __future__ import annotations

import pytest
import torch
from support.ptx_text import run, words

from bench.ptx import latency, parse
from bench.ptx.counts import Counts
from bench.ptx.latency import ARITHMETIC, BARRIER, FIRST_CACHE, MEMORY, SECOND_CACHE, SHARED


def cycles(body: str, threads: int = 64) -> tuple[float, float]:
    """Of a block that finds constants in the first cache, and of one that does not, beyond a kernel without a body."""
    found = []
    for each in (body, ""):
        counts = Counts()
        run(each, words(), torch.zeros(64, dtype=torch.int32), counts=counts, blocks=2, threads=threads)
        found.append((counts.latency, counts.first_latency))
    return found[0][0] - found[1][0], found[0][1] - found[1][1]


def adds(count: int, dependent: bool) -> str:
    return " ".join(f"add.u32 %r{2 if dependent else 3 + n % 40}, %r2, 1;" for n in range(count))


# Waits for a value before the kernel returns.
AND_WAIT = "setp.eq.u32 %p1, %r2, 77; @%p1 bra done; done:"


def test_dependent_instructions_wait_for_one_another() -> None:
    assert cycles(adds(20, True))[0] - cycles(adds(10, True))[0] == pytest.approx(10 * ARITHMETIC)
    assert cycles(adds(20, False))[0] - cycles(adds(10, False))[0] == pytest.approx(10)
    assert cycles("mov.u32 %r2, %r0; mov.u32 %r3, %r2;") == (0, 0)  # the assembler removes moves


def test_loads() -> None:
    shared = f"ld.shared.u32 %r2, [%r1]; {AND_WAIT}"
    constant = f"ld.global.u32 %r2, [%d3]; {AND_WAIT}"
    before = "st.shared.u32 [%r1], %r0; bar.sync 0;"
    base = cycles(before + AND_WAIT)[0]
    assert cycles(before + shared)[0] - base == pytest.approx(SHARED, abs=2 * ARITHMETIC)
    later, first = cycles(constant)
    assert first - later == SECOND_CACHE - FIRST_CACHE
    assert later == pytest.approx(FIRST_CACHE, abs=4 * ARITHMETIC)


def test_logits_come_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"ld.global.u32 %r2, [%d3]; {AND_WAIT}"
    before = cycles(body)[0]
    monkeypatch.setattr(latency, "_LOGITS", ("in",))
    later, first = cycles(body)
    assert later == first
    assert later - before == MEMORY - FIRST_CACHE


def test_a_sector_is_missed_once() -> None:
    again = "add.u32 %r3, %r2, %r0; bar.sync 0; ld.global.u32 %r2, [%d3];"
    once, twice = (cycles(f"ld.global.u32 %r2, [%d3]; {more} {AND_WAIT}") for more in ("", again))
    assert twice[1] - twice[0] == once[1] - once[0] == SECOND_CACHE - FIRST_CACHE


@pytest.mark.parametrize("loads", [2, 3])
def test_nothing_moves_over_a_branch(loads: int) -> None:
    """Loads in straight-line code are on their way together; those of a loop's turns follow one another."""
    used = "add.u32 %r3, %r2, %r3;"
    straight = " ".join(f"ld.global.u32 %r{10 + n}, [%d3]; add.u32 %r3, %r{10 + n}, 1;" for n in range(loads))
    loop = f"""
    mov.u32 %r3, 0; mov.u32 %r4, 0;
    again: ld.global.u32 %r2, [%d3]; {used} add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, {loads}; @%p2 bra again;"""
    assert cycles(straight)[0] < FIRST_CACHE + 10 * ARITHMETIC
    assert loads * FIRST_CACHE < cycles(loop)[0] < loads * (FIRST_CACHE + 6 * ARITHMETIC)


def test_registers_limit_what_moves_ahead() -> None:
    def apart(count: int) -> float:
        """A load, `count` instructions that need it, and a load behind them."""
        between = " ".join(f"add.u32 %r{10 + n % 40}, %r2, 1;" for n in range(count))
        behind = "ld.global.u32 %r3, [%d3]; setp.eq.u32 %p1, %r3, 77; @%p1 bra done; done:"
        return cycles(f"ld.global.u32 %r2, [%d3]; {between} {behind}")[0]

    window = 255 // 2  # the kernel says nothing of its threads
    assert apart(window // 2) < 2 * FIRST_CACHE + window // 2 - 20
    assert apart(2 * window) > 2 * FIRST_CACHE + window


def test_registers_by_the_directives_of_a_kernel() -> None:
    text = ".version 8.0\n.target sm_90\n.visible .entry k(.param .u64 x)\n{}\n{{\nret;\n}}\n"
    for directives, most in (("", 255), (".maxntid 256, 1, 1\n.minnctapersm 2", 128), (".reqntid 512", 128)):
        assert parse.kernel(text.format(directives), "k").registers_at_most == most


def test_a_barrier_waits_for_the_slowest_warp() -> None:
    slow = f"setp.ge.u32 %p1, %r0, 32; @%p1 bra on; {adds(30, True)} on:"
    alone, together = cycles(slow)[0], cycles(f"{slow} bar.sync 0; {adds(10, True)}")[0]
    assert alone == pytest.approx(30 * ARITHMETIC, abs=4 * ARITHMETIC)
    assert together - alone == pytest.approx(BARRIER + 10 * ARITHMETIC, abs=2 * ARITHMETIC)


def test_a_wait_for_copies() -> None:
    copy = "mul.wide.u32 %d5, %r0, 12; add.s64 %d6, %d3, %d5; setp.lt.u32 %p3, %r0, 16; shl.b32 %r5, %r0, 4;"
    copy += " @%p3 cp.async.cg.shared.global [%r5], [%d6], 16; cp.async.commit_group;"
    later, first = cycles(f"{copy} cp.async.wait_group 0;")
    assert FIRST_CACHE < later < FIRST_CACHE + 10 * ARITHMETIC
    assert first - later == SECOND_CACHE - FIRST_CACHE
    # With another group on its way, nobody waits for it.
    pending = cycles(f"{copy} cp.async.wait_group 1; {adds(3, True)} cp.async.wait_group 0;")[0]
    assert pending == pytest.approx(later, abs=2 * ARITHMETIC)
