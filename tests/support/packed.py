"""The torch-free core, and a step's packed plan executed as a kernel executes it: part by part, in numpy."""

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
    """Runs `plan` on the maps of coarse tokens x (tokens, columns).

    `output` is (tokens, columns) and NaN where nothing was written; `multiply_adds` is what it took per column.
    """

    def __init__(self, plan: Any, x: Array) -> None:
        self.plan = plan
        self.multiply_adds = 0
        maps = self._along_the_plan(x, plan.in_h, plan.in_w)
        self.map = np.full((plan.in_h, plan.row, x.shape[1]), np.nan, x.dtype)
        self.addend = np.zeros((0, plan.out_w, x.shape[1]), x.dtype)
        takes_entries = plan.h_taps[0].size > 0 and not plan.lifted
        if takes_entries:
            self.addend = self._take(plan.w_taps, maps.swapaxes(0, 1), plan.in_h).swapaxes(0, 1)
        self._load(maps)
        if plan.lifted:
            self._lift()
        if plan.groups:
            self._to_spectrum(maps)
        rows = self._take(plan.h_taps, self.addend, plan.out_w) if len(self.addend) else 0.0
        rows = rows + self._dense()
        assert rows.shape == (plan.out_h, plan.out_w, x.shape[1])
        if plan.swapped:
            rows = rows.swapaxes(0, 1)
        self.output = rows.reshape(-1, x.shape[1])

    def _along_the_plan(self, x: Array, h: int, w: int) -> Array:
        if self.plan.swapped:
            return x.reshape(w, h, -1).swapaxes(0, 1)
        return x.reshape(h, w, -1)

    def _load(self, maps: Array) -> None:
        plan = self.plan
        folded = fold(maps, 1 if plan.pairs_h else 0)
        folded = fold(folded.swapaxes(0, 1), 1 if plan.pairs_w else 0).swapaxes(0, 1)
        split = plan.pairs_w or plan.in_w
        self.map[:, :split] = folded[:, :split]
        self.map[:, plan.row - (plan.in_w - split) :] = folded[:, split:]

    def _lift(self) -> None:
        plan = self.plan
        split = plan.pairs_w or plan.in_w
        own = np.concatenate([self.map[:, :split], self.map[:, plan.row - (plan.in_w - split) :]], axis=1)
        lifted = self._transform(plan.lift_h, own, plan.lifted)
        for j in range(plan.pairs_w):
            odd, even = lifted[:, j].copy(), lifted[:, -1 - j].copy()
            lifted[:, j], lifted[:, -1 - j] = even + odd, even - odd
        self.addend = self._take(plan.w_taps, lifted.swapaxes(0, 1), plan.lifted).swapaxes(0, 1)
        columns = self.map.swapaxes(0, 1)
        appended = self._transform(plan.lift_w, columns, plan.row)
        written = ~np.isnan(appended)
        assert not (written & ~np.isnan(columns)).any(), "a lift overwrites the map"
        columns[written] = appended[written]

    def _to_spectrum(self, maps: Array) -> None:
        plan = self.plan
        rows = self._transform(plan.spectrum_h, fold(maps, plan.folds_h), sum(plan.h[0]["lengths"]))
        length = sum(plan.w["lengths"])
        assert sorted(row for group in plan.groups for row in group) == list(range(len(rows)))
        for group in plan.groups:
            mixed = fold(rows[group].swapaxes(0, 1), plan.folds_w)
            spectrum = self._transform(plan.spectrum_w, mixed, length).swapaxes(0, 1)
            for at, row in enumerate(group):
                taps = tuple(part[[row]] for part in plan.bracket_h)
                bracket = self._take(taps, spectrum, length)[0]
                self.map[row, :length] = spectrum[at] + self._take(plan.bracket_w, bracket, 1)

    def _dense(self) -> Array:
        plan = self.plan
        if not plan.w["out"]:
            return np.zeros(())
        slots = self.map
        if plan.h:
            slots = np.full((plan.out_h, sum(plan.w["lengths"]), self.map.shape[2]), np.nan, self.map.dtype)
            for begin, to, count, factor in plan.columns:
                assert np.isnan(slots[:, to : to + count]).all(), "a slot is filled twice"
                coordinates = self.map[: sum(plan.h[factor]["lengths"]), begin : begin + count]
                slots[:, to : to + count] = self._expand(plan.h[factor], coordinates)
        return self._expand(plan.w, slots.swapaxes(0, 1)).swapaxes(0, 1)

    def _transform(self, blocks: Any, x: Array, outputs: int) -> Array:
        y = np.full((outputs, *x.shape[1:]), np.nan, x.dtype)
        for begin, to, matrix in blocks:
            assert np.isnan(y[to : to + matrix["out"]]).all(), "two blocks write one output"
            y[to : to + matrix["out"]] = self._expand(matrix, x[begin : begin + sum(matrix["lengths"])])
        return y

    def _expand(self, matrix: Any, x: Array) -> Array:
        """Chunk by chunk, from coordinates x (coordinates, streams, columns) to outputs."""
        out, folds, lengths = matrix["out"], matrix["folds"], matrix["lengths"]
        assert len(x) == sum(lengths)
        y = np.full((out, *x.shape[1:]), np.nan, x.dtype)
        for begin, orbits, offset, runs in matrix["chunks"]:
            products = []
            first = 0
            for k, length in enumerate(lengths):
                width = orbits << (folds - 1 - k) if k < folds else orbits
                coefficients = _cut(matrix["coefficients"], offset, width * length).reshape(length, width)
                products.append(np.tensordot(coefficients.T, x[first : first + length], 1))
                self.multiply_adds += coefficients.size * x.shape[1]
                offset, first = offset + width * length, first + length
            outputs = _unfold(products, orbits)
            places = [begin + i for i in range(orbits)]
            if folds == 2:
                places += [out // 2 - 1 - p for p in places] + [out // 2 + p for p in places]
            if folds:
                places += [out - 1 - (begin + i) for i in range(orbits)]
            y[places] = outputs
            covered = [first + i for first, count in runs for i in range(count)]
            assert sorted(set(places)) == sorted(covered)
        return y

    def _take(self, taps: Any, x: Array, streams: int) -> Array:
        index, coefficient = taps
        self.multiply_adds += coefficient.size * streams
        shape = (*coefficient.shape, *(1 for _ in x.shape[1:]))
        return (coefficient.reshape(shape) * x[index]).sum(axis=1)


def fold(x: Array, folds: int) -> Array:
    """Along the first axis: differences of mirrored entries, in place of the first of them, then their sums."""
    x = x.copy()
    begin = 0
    for _ in range(folds):
        n = len(x) - begin
        # The sums of a fold stand in reverse order.
        part = x[begin:] if begin == 0 else x[begin:][::-1]
        difference, total = part[: n // 2] - part[::-1][: n // 2], part[: n // 2] + part[::-1][: n // 2]
        middle = part[n // 2 : n - n // 2]
        x[begin:] = np.concatenate([difference, middle, total[::-1]])
        begin += n // 2
    return x


def _unfold(products: list[Array], orbits: int) -> Array:
    """A chunk's outputs in the order of the places of its orbits."""
    even = products[-1]
    if len(products) == 1:
        return even
    if len(products) == 2:
        return np.concatenate([even + products[0], even - products[0]])
    outer, inner = even + products[1], even - products[1]
    odd = products[0]
    return np.concatenate(
        [outer + odd[:orbits], inner + odd[orbits:], inner - odd[orbits:], outer - odd[:orbits]]
    )


def _cut(packed: Array, offset: int, size: int) -> Array:
    part = packed[offset : offset + size]
    assert len(part) == size, f"{size} packed values at {offset} reach past the end, {len(packed)}"
    return part


def operator_of(plan: Any, tokens: int) -> tuple[Array, Execution]:
    """The plan's whole operator, (output tokens) x (input tokens): one unit vector per column."""
    assert plan.in_h * plan.in_w == tokens
    execution = Execution(plan, np.eye(tokens))
    return execution.output, execution
