"""The folder of an evaluation: what it evaluates, its finished chunks, and writing that never leaves half a file."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ssg_kernels.evaluate.recipe import EvaluateError
from ssg_kernels.evaluate.setting import Setting

_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Item:
    """A chunk to make: images [first, first + count) of one setting and one seed."""

    setting: Setting
    name: str  # of the setting
    seed: int
    first: int
    count: int

    def __str__(self) -> str:
        return f"images {self.first} to {self.first + self.count - 1} of {self.name}, seed {self.seed}"


class Folder:
    """The folder `--out`. `chunks/` holds the finished chunks, `arguments.json` what they were made with."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def held(self, arguments: Mapping[str, Any]) -> Iterator[None]:
        """Inside, this process alone writes to the folder. The arguments must be those of the folder's chunks."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as reason:
            raise EvaluateError(f"cannot write to --out {self.path}: {reason.strerror}") from reason
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise EvaluateError(f"another evaluation is writing to {self.path}") from None
            except OSError:
                pass  # This file system has no locks.
            self._check(arguments)
            for left in self.path.rglob(f"*{_UNFINISHED}"):
                left.unlink(missing_ok=True)
            yield

    def _check(self, arguments: Mapping[str, Any]) -> None:
        path = self.path / "arguments.json"
        wanted = json.loads(json.dumps(arguments))
        # A run that failed before its first chunk binds nobody to its arguments.
        if not path.exists() or next((self.path / "chunks").rglob("*.npz"), None) is None:
            write(path, json.dumps(arguments, indent=1).encode())
            return
        try:
            kept = json.loads(path.read_text())
        except ValueError as reason:
            raise EvaluateError(f"{path} is damaged: {reason}; use another --out") from None
        for name in sorted({*kept, *wanted}):
            if kept.get(name) != wanted.get(name):
                raise EvaluateError(
                    f"{self.path} was made with {name} {_text(kept.get(name))}, and now {name} is "
                    f"{_text(wanted.get(name))}. Its chunks are kept as they are: use another --out, or the same "
                    f"arguments as before"
                )

    def chunk(self, item: Item) -> Path:
        return self.path / "chunks" / item.name / f"seed{item.seed}" / f"{item.first:07d}.npz"

    def has(self, item: Item) -> bool:
        """Whether the chunk is there and whole."""
        try:
            with zipfile.ZipFile(self.chunk(item)) as file:
                return bool(file.namelist())
        except (OSError, zipfile.BadZipFile):
            return False

    def save(self, item: Item, arrays: Mapping[str, np.ndarray]) -> None:
        path = self.chunk(item)
        write(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def read(self, items: Sequence[Item], name: str) -> np.ndarray:
        """The array `name` of all the chunks, one after the other."""
        parts = []
        for item in items:
            try:
                with np.load(self.chunk(item)) as file:
                    parts.append(file[name])
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as reason:
                raise EvaluateError(
                    f"chunk {self.chunk(item)} cannot be read ({reason}); delete it and run the same command again"
                ) from reason
        return np.concatenate(parts)

    def arrays(self, item: Item) -> list[str]:
        """The names of the arrays in a chunk."""
        with np.load(self.chunk(item)) as file:
            return list(file.files)


def write(path: Path, content: bytes | Callable[[IO[bytes]], Any]) -> None:
    """Writes a file as a whole or not at all: a name that exists always has its full content. Makes its folder.

    Args:
        path: the file.
        content: its bytes, or a function that writes them to the open file.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{_UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(unfinished, "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as reason:
        if reason.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise EvaluateError(
                f"{path} could not be written: {reason.strerror}. Everything written before is kept; make room and run "
                f"the same command again"
            ) from reason
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "unset" if value is None else str(value)
