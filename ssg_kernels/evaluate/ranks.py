"""The processes of one evaluation: one, or those that torchrun started. They talk through gloo, on the CPU."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ssg_kernels.evaluate.recipe import EvaluateError

T = TypeVar("T")


class Ranks:
    """Used as a context manager. With one process, every method returns at once."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        self.local = int(os.environ.get("LOCAL_RANK", 0))

    @property
    def first(self) -> bool:
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this process: the one that was named, or this rank's GPU."""
        if name != "auto":
            return name
        if not torch.cuda.is_available():
            return "cpu"
        torch.cuda.set_device(self.local % torch.cuda.device_count())
        return f"cuda:{torch.cuda.current_device()}"

    def __enter__(self) -> Ranks:
        if self.count > 1:
            # A rank may wait for the others for as long as these generate. torchrun ends all ranks if one dies.
            torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=30))
        return self

    def __exit__(self, *_: object) -> None:
        if self.count > 1:
            torch.distributed.destroy_process_group()

    def share(self, act: Callable[[], T]) -> T:
        """The first rank acts, and every rank gets the result. If it is an EvaluateError, every rank raises it."""
        values = [_outcome(act) if self.first else None]
        if self.count > 1:
            _told(lambda: torch.distributed.broadcast_object_list(values))
        return _raised(values)[0]

    def together(self, act: Callable[[], T]) -> list[T]:
        """Every rank acts. Returns what each of them got. If one raises an EvaluateError, every rank raises it."""
        return _raised(self.gather(_outcome(act)))

    def gather(self, value: Any, meanwhile: Callable[[], None] = lambda: None) -> list[Any]:
        """The values of all ranks, on every rank. Calls `meanwhile` again and again while others are not there yet."""
        if self.count == 1:
            return [value]
        waiting = torch.distributed.barrier(async_op=True)
        while not waiting.is_completed():
            meanwhile()
            time.sleep(0.1)
        values: list[Any] = [None] * self.count
        _told(waiting.wait)
        _told(lambda: torch.distributed.all_gather_object(values, value))
        return values


def _outcome(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except EvaluateError as reason:
        return reason


def _raised(outcomes: list[Any]) -> list[Any]:
    for outcome in outcomes:
        if isinstance(outcome, EvaluateError):
            raise outcome
    return outcomes


def _told(exchange: Callable[[], Any]) -> None:
    try:
        exchange()
    except RuntimeError as reason:
        raise EvaluateError(
            "another rank has died, so this one stops. The finished chunks are kept: run the same command again"
        ) from reason
