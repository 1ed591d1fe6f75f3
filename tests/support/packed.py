"""The torch-free core, and a step's packed plan executed as a kernel executes it: chunk by chunk, in numpy."""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[np.floating]


def load_host() -> Any:
    """The development module. Skips the file where it was not built; fails there under SSG_REQUIRE_EXTENSION=1."""
    if os.environ.get("SSG_REQUIRE_EXTENSION") == "1":
        return importlib.import_module("ssg_kernels._host")
    return pytest.importorskip("ssg_kernels._host", reason="ssg_kernels._host is not built")


class Execution:
    """Runs `plan` on maps x (in_h, in_w, columns), or their tokens as one column of the grid in the dense form.

    `output` is (out_h, out_w, columns) and NaN where nothing was written; `multiply_adds` is what it took per column.
    """

    def __init__(self, plan: Any, x: Array) -> None:
        self.plan = plan
        self.multiply_adds = 0
        self.even_h, self.odd_h = _halves(plan.in_h, plan.symmetric_h)
        self.even_w, self.odd_w = _halves(plan.in_w, plan.symmetric_w)
        self.map = _even_odd(x, plan.symmetric_h)
        self.map = _even_odd(self.map.swapaxes(0, 1), plan.symmetric_w).swapaxes(0, 1)
        self.output = np.full((plan.out_h, plan.out_w, x.shape[2]), np.nan, x.dtype)
        self.written = np.zeros((plan.out_h, plan.out_w), int)
        pairs_h = _pairs(plan.out_h, plan.symmetric_h)
        for block in range(plan.blocks):
            first = block * plan.block_pairs
            last = min(first + plan.block_pairs, pairs_h)
            slots = self._fill_slots(block, first, last)
            if plan.form == "dense":  # one row: a kernel reads the map itself in place of the slots
                np.testing.assert_array_equal(slots[0, 0], self.map[0])
            for pair in range(first, last):
                mirror = plan.out_h - 1 - pair if plan.symmetric_h else pair
                self._write_row(pair, slots[pair - first, 0])
                if mirror != pair:
                    self._write_row(mirror, slots[pair - first, 1])

    def _fill_slots(self, block: int, first: int, last: int) -> Array:
        plan = self.plan
        slots = np.full((last - first, 2, plan.slots, self.map.shape[2]), np.nan, self.map.dtype)
        terms = len(plan.dense_terms)
        for begin, rows, offset in plan.block_chunks[block]:
            coefficients = _cut(plan.h_coefficients, offset, rows * plan.in_h).reshape(plan.in_h, rows)
            p = np.tensordot(coefficients[: self.even_h].T, self.map[: self.even_h], 1)
            q = np.tensordot(coefficients[self.even_h :].T, self.map[self.even_h :], 1)
            self.multiply_adds += coefficients.size * plan.in_w
            for r in range(rows):
                pair, term = divmod(begin + r, terms)
                self._put(slots[pair], plan.dense_terms[term], p[r], q[r])
        for term, taps in zip(plan.banded_terms, plan.h_taps, strict=True):
            count = taps.even + taps.odd
            for pair in range(first, last):
                coefficients = _cut(taps.coefficient, pair * count, count)[:, None, None]
                products = coefficients * self.map[_cut(taps.index, pair * count, count)]
                self.multiply_adds += count * plan.in_w
                self._put(
                    slots[pair - first], term, products[: taps.even].sum(0), products[taps.even :].sum(0)
                )
        return slots

    def _put(self, slots: Array, term: int, p: Array, q: Array) -> None:
        for j in range(self.plan.in_w):
            is_even = j < self.even_w
            slot = self.plan.slot_even[term] + j if is_even else self.plan.slot_odd[term] + j - self.even_w
            assert np.isnan(slots[:, slot]).all(), f"slot {slot} of term {term} is written twice"
            slots[0, slot] = p[j] + q[j]
            slots[1, slot] = p[j] - q[j]

    def _write_row(self, row: int, slots: Array) -> None:
        plan = self.plan
        taps = plan.w_taps
        count = taps.even + taps.odd
        length = plan.dense_even + plan.dense_odd
        for begin, rows, offset in plan.w_chunks:
            coefficients = _cut(plan.w_coefficients, offset, rows * length).reshape(length, rows)
            p = coefficients[: plan.dense_even].T @ slots[: plan.dense_even]
            q = coefficients[plan.dense_even :].T @ slots[plan.dense_even : length]
            self.multiply_adds += coefficients.size + rows * count
            for r in range(rows):
                column = begin + r
                tap = _cut(taps.coefficient, column * count, count)[:, None]
                products = tap * slots[_cut(taps.index, column * count, count)]
                even = p[r] + products[: taps.even].sum(0)
                odd = q[r] + products[taps.even :].sum(0)
                mirror = plan.out_w - 1 - column if plan.symmetric_w else column
                self._write(row, column, even + odd)
                if mirror != column:
                    self._write(row, mirror, even - odd)

    def _write(self, row: int, column: int, values: Array) -> None:
        self.written[row, column] += 1
        self.output[row, column] = values


def _halves(n: int, symmetric: bool) -> tuple[int, int]:
    return ((n + 1) // 2, n // 2) if symmetric else (n, 0)


def _pairs(n: int, symmetric: bool) -> int:
    return (n + 1) // 2 if symmetric else n


def _even_odd(x: Array, symmetric: bool) -> Array:
    """Even coordinate i of the first axis is x_i + x_i', odd coordinate i is x_i - x_i'; a middle is even."""
    if not symmetric:
        return x
    n = len(x)
    half = n // 2
    mirrored = x[::-1][:half]
    return np.concatenate([x[:half] + mirrored, x[half : n - half], x[:half] - mirrored])


def _cut(packed: Array, offset: int, size: int) -> Array:
    part = packed[offset : offset + size]
    assert len(part) == size, f"{size} packed values at {offset} reach past the end, {len(packed)}"
    return part


def operator_of(plan: Any, tokens: int) -> tuple[Array, Execution]:
    """The plan's whole operator, (output tokens) x (input tokens): one unit vector per column."""
    assert plan.in_h * plan.in_w == tokens
    unit = np.eye(tokens).reshape(plan.in_h, plan.in_w, tokens)
    execution = Execution(plan, unit)
    return execution.output.reshape(-1, tokens), execution
