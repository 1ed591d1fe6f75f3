"""Memory as bytes, of which each is known to be allocated, writable and written, and the races in shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.ptx.faults import Fault

Array = Any  # numpy arrays of many types; their arithmetic is not annotated

ALLOCATED, WRITTEN, WRITABLE = 1, 2, 4
GUARD = 256  # bytes between two allocations of global memory, which nobody may touch
GLOBAL = 1 << 40  # where global addresses begin, so that 32-bit arithmetic on one is noticed
LOCAL = 1 << 44  # and generic addresses of local memory

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}


def _pattern(width: int, flags: int) -> int:
    return int.from_bytes(bytes([flags]) * min(width, 8), "little")


class Space:
    """A state space. `origins` has where each lane's part of it begins, `limit` the bytes of a part."""

    def __init__(
        self, name: str, data: Array, state: Array, origins: Array | None, base: int, limit: int
    ) -> None:
        self.name, self.base, self.limit, self.origins = name, base, limit, origins
        self.checks = True
        self.data, self.state = data, state
        self.spans: list[
            tuple[int, int, str]
        ] = []  # of global memory: first address, the one behind the last, name
        self._words = {width: data.view(kind) for width, kind in _WORDS.items()}
        self._states = {width: state.view(kind) for width, kind in _WORDS.items()}

    @classmethod
    def of_parts(cls, name: str, size: int, parts: int, lanes_per_part: int) -> Space:
        """Uninitialised memory of `size` bytes for each part of the lanes: a block, or a thread."""
        stride = -(-size // 16) * 16 + 16
        state = np.zeros((parts, stride), np.uint8)
        state[:, :size] = ALLOCATED | WRITABLE
        origins = np.repeat(np.arange(parts, dtype=np.int64) * stride, lanes_per_part)
        return cls(name, np.zeros(parts * stride, np.uint8), state.reshape(-1), origins, 0, size)

    def locate(self, lanes: Array, address: Array, width: int, flags: int) -> Array:
        """Byte positions of accesses of `width` bytes; Fault where one is misaligned, outside, or not written."""
        at = address - self.base
        if not self.checks:
            return at if self.origins is None else at + self.origins[lanes]
        if (at & (width - 1)).any():
            self._fault("misaligned", lanes, address, (at & (width - 1)) != 0, width)
        outside = (at < 0) | (at > self.limit - width)
        if outside.any():
            self._fault("out of bounds", lanes, address, outside, width)
        if self.origins is not None:
            at = at + self.origins[lanes]
        state = self._states[width][at // width]
        if width == 16:
            state = state.view(np.uint64).reshape(-1, 2)
            state = state[:, 0] & state[:, 1]
        wanted = np.array(_pattern(width, flags), state.dtype)
        missing = (state & wanted) != wanted
        if missing.any():
            allocated = np.array(_pattern(width, flags & ~WRITTEN), state.dtype)
            wrong = (state & allocated) != allocated
            if wrong.any():
                self._fault("out of bounds", lanes, address, wrong, width)
            self._fault("uninitialised", lanes, address, missing, width)
        return at

    def _fault(self, kind: str, lanes: Array, address: Array, wrong: Array, width: int) -> None:
        first = int(np.flatnonzero(wrong)[0])
        raise Fault(
            kind,
            f"{width} bytes of {self.name} memory at {int(address[first]):#x}, lane {int(lanes[first])} "
            f"({int(wrong.sum())} of {len(lanes)} lanes)",
        )

    def read(self, at: Array, width: int) -> Array:
        """(lanes, width) bytes."""
        return self._words[width][at // width].view(np.uint8).reshape(-1, width)

    def unwritten(self, at: Array, width: int, item: int) -> Array | None:
        """(lanes, elements): the elements of `item` bytes of which some byte was not written; None where all were."""
        if not self.checks:
            return None
        state = self._states[width][at // width].view(np.uint8).reshape(-1, width)
        missing = (state & WRITTEN) == 0
        return missing.reshape(len(at), -1, item).any(axis=2) if missing.any() else None

    def write(self, at: Array, values: Array) -> None:
        """`values` has a row of bytes for each position."""
        width = values.shape[1]
        index = at // width
        self._words[width][index] = np.ascontiguousarray(values).view(_WORDS[width])[:, 0]
        if not self.checks and self.name != "global":
            return
        if width == 16:
            states = self.state.view(np.uint64).reshape(-1, 2)
            states[index] |= np.uint64(_pattern(8, WRITTEN))
        else:
            self._states[width][index] |= _WORDS[width](_pattern(width, WRITTEN))

    def forget(self, at: Array, width: int) -> None:
        """What lies there is no longer known: an asynchronous copy is on its way."""
        if not self.checks:
            return
        for byte in range(width):
            self.state[at + byte] &= np.uint8(~WRITTEN & 0xFF)


class Races:
    """Who touched which granule of shared memory since the last barrier.

    Two threads race if one of them writes, and neither a barrier of the block nor, in one warp, a barrier of the warp
    lies between.
    """

    ATOMIC = -3
    MANY = -1  # readers of several warps; -10 - w are several readers of warp w

    def __init__(self, size: int, granule: int, blocks: int, lanes_per_block: int) -> None:
        self.granule = granule
        self.lanes_per_block = lanes_per_block
        self.epoch = np.ones(blocks, np.int32)
        self.order = np.zeros(blocks * lanes_per_block // 32, np.int32)
        count = size // granule
        self.writer = np.full(count, -9, np.int32)
        self.written, self.written_order = np.zeros(count, np.int32), np.zeros(count, np.int32)
        self.reader = np.full(count, -9, np.int32)
        self.read, self.read_order = np.zeros(count, np.int32), np.zeros(count, np.int32)
        # For what runs asynchronously: granules that it still reads, and those stored behind no fence.
        self.pinned = np.zeros(count, np.int32)
        self.unfenced = np.zeros(count, bool)

    def _granules(self, lanes: Array, at: Array, width: int) -> tuple[Array, Array]:
        per = max(1, width // self.granule)
        if per == 1:
            return lanes.astype(np.int32), at // self.granule
        found = (at // self.granule)[:, None] + np.arange(per)
        return np.repeat(lanes.astype(np.int32), per), found.reshape(-1)

    def _written_by_another(self, lanes: Array, g: Array, now: Array, order: Array) -> Array:
        writer = self.writer[g]
        conflict = (self.written[g] == now) & (writer != lanes)
        if conflict.any():
            conflict &= ~((writer >> 5 == lanes >> 5) & (self.written_order[g] < order))
        return conflict

    def on_read(self, lanes: Array, at: Array, width: int) -> None:
        lanes, g = self._granules(lanes, at, width)
        now, order = self.epoch[lanes // self.lanes_per_block], self.order[lanes >> 5]
        conflict = self._written_by_another(lanes, g, now, order)
        if conflict.any():
            self._fault("reads what", lanes, g, conflict, self.writer)
        old = self.reader[g]
        known = self.read[g] == now
        self.reader[g] = lanes
        back = self.reader[g]
        warp = lanes >> 5
        # A barrier of the warp lies between: who comes after both reads comes after the older one.
        ordered = (_warp_of(old) == warp) & (self.read_order[g] < order)
        many = (back != lanes) | (known & (old != lanes) & ~ordered)
        if many.any():
            across = (back >> 5 != warp) | (known & (_warp_of(old) != warp))
            self.reader[g[many]] = -10 - warp[many]
            self.reader[g[across]] = self.MANY
        self.read[g] = now
        self.read_order[g] = order

    def on_write(
        self, lanes: Array, at: Array, width: int, same: Array | None = None, atomic: bool = False
    ) -> bool:
        """Whether lanes write to the same place at once.

        Two threads may write one place if they write the same, as Triton's do where a value is in several warps. `same`
        are the lanes that write what lies there already; of those at once, the caller sees to it.
        """
        if same is not None:
            same = np.repeat(same, max(1, width // self.granule))
        lanes, g = self._granules(lanes, at, width)
        now, order = self.epoch[lanes // self.lanes_per_block], self.order[lanes >> 5]
        conflict = self._written_by_another(lanes, g, now, order)
        if atomic:
            conflict &= self.writer[g] != self.ATOMIC
        if same is not None:
            conflict &= ~same
        if conflict.any():
            self._fault("writes what", lanes, g, conflict, self.writer)
        if (conflict := self.pinned[g] > 0).any():
            self._fault(
                "writes what a matrix instruction still reads, beside", lanes, g, conflict, self.reader
            )
        self.unfenced[g] = True
        at_once = False
        reader = self.reader[g]
        conflict = (self.read[g] == now) & (reader != lanes)
        if conflict.any():
            conflict &= ~((_warp_of(reader) == lanes >> 5) & (self.read_order[g] < order))
            if conflict.any():
                self._fault("writes what was read by", lanes, g, conflict, self.reader)
        if atomic:
            self.writer[g] = self.ATOMIC
        else:
            self.writer[g] = lanes
            at_once = bool((self.writer[g] != lanes).any())
        self.written[g] = now
        self.written_order[g] = order
        return at_once

    def pin(self, at: Array) -> Array:
        g = np.unique(at // self.granule)
        self.pinned[g] += 1
        return g

    def fence(self, lanes: Array) -> None:
        """What these lanes stored is visible to asynchronous readers."""
        self.unfenced &= ~lanes[np.maximum(self.writer, 0)]

    def check_fenced(self, at: Array) -> None:
        if self.unfenced[at // self.granule].any():
            raise Fault("race", "a matrix instruction reads what was stored with no proxy fence between")

    def _fault(self, what: str, lanes: Array, g: Array, conflict: Array, others: Array) -> None:
        first = int(np.flatnonzero(conflict)[0])
        raise Fault(
            "race",
            f"lane {int(lanes[first])} {what} {int(others[g[first]])}, with no barrier between, "
            f"at byte {int(g[first]) * self.granule} of shared memory",
        )


class Unraced(Races):
    """Watches nobody."""

    def on_read(self, lanes: Array, at: Array, width: int) -> None:
        pass

    def on_write(
        self, lanes: Array, at: Array, width: int, same: Array | None = None, atomic: bool = False
    ) -> bool:
        return False

    def pin(self, at: Array) -> Array:
        return at[:0]

    def fence(self, lanes: Array) -> None:
        pass

    def check_fenced(self, at: Array) -> None:
        pass


def _warp_of(reader: Array) -> Array:
    return np.where(reader >= 0, reader >> 5, np.where(reader <= -10, -10 - reader, -1))


class Arena:
    """Global memory: copies of tensors of the host, each storage at an address of its own."""

    def __init__(self) -> None:
        self._size = GUARD
        self._storages: dict[int, int] = {}  # where a storage begins
        self._regions: list[tuple[Tensor, int, int]] = []  # tensor, offset, flags
        self._space: Space | None = None
        self._spans: list[tuple[int, int, str]] = []

    def place(self, tensor: Tensor, name: str, *, written: bool = True, writable: bool = False) -> int:
        """The address of a tensor; what belongs to its storage alone may not be touched."""
        assert self._space is None
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        start = self._storages.get(key)
        if start is None:
            start = -(-self._size // 256) * 256
            self._storages[key] = start
            self._size = start + storage.nbytes() + GUARD
            self._spans.append((GLOBAL + start, GLOBAL + start + storage.nbytes(), name))
        offset = start + int(tensor.storage_offset()) * tensor.element_size()
        flags = ALLOCATED | (WRITTEN if written else 0) | (WRITABLE if writable else 0)
        self._regions.append((tensor, offset, flags))
        return GLOBAL + offset

    def space(self) -> Space:
        """The memory itself; no tensor can be placed any more."""
        if self._space is None:
            size = -(-self._size // 256) * 256
            data, state = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
            for tensor, offset, flags in self._regions:
                if not tensor.numel():
                    continue
                if flags & WRITTEN:
                    _elements(data, offset, tensor)[...] = _bits(tensor)
                marks = _elements(state, offset, tensor)
                marks |= _pattern(tensor.element_size(), flags)
            self._space = Space("global", data, state, None, GLOBAL, size)
            self._space.spans = self._spans
        return self._space

    def fetch(self, tensor: Tensor, address: int, where: Array) -> None:
        """Copies into the tensor the elements that lie at the address, where they were written."""
        assert self._space is not None
        found = _elements(self._space.data, address - GLOBAL, tensor)
        np.copyto(_bits(tensor), found, where=where)

    def is_written(self, tensor: Tensor, address: int) -> Array:
        assert self._space is not None
        state = _elements(self._space.state, address - GLOBAL, tensor)
        pattern = np.array(_pattern(tensor.element_size(), WRITTEN), state.dtype)
        return (state & pattern) == pattern


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(tensor: Tensor) -> Array:
    width = tensor.element_size()
    return tensor.view(_INTEGERS[width]).numpy().view(_WORDS[width])


def _elements(data: Array, offset: int, tensor: Tensor) -> Array:
    """The elements of a tensor where its storage is copied to."""
    width = tensor.element_size()
    words = data[offset : offset + (len(data) - offset) // width * width].view(_WORDS[width])
    strides = [s * width for s in tensor.stride()]
    return np.lib.stride_tricks.as_strided(words, tensor.shape, strides)
