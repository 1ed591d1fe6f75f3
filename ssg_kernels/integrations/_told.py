"""What a context saw, and the warning that says what went by unguided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class GuidanceWarning(UserWarning):
    """Something ran unguided inside an `attach` context, or nothing ran there at all."""


class Seen:
    """What happened between entering a context and leaving it. Calls may add to it from several threads."""

    def __init__(self, model: Any, methods: Sequence[str]) -> None:
        self.model, self.methods = model, methods
        self.calls: list[str] = []
        """The names of the sampling methods that were called."""
        self.problems: list[str] = []
        """What went wrong in those that ended and guided nothing."""
        self.others: list[str] = []
        """The names of other methods of the model that sampled."""

    def watch(self, caller: Any, name: str) -> None:
        if caller is self.model:
            self.others.append(name)

    def sentence(self) -> str | None:
        """What the user must be told; None if all was guided."""
        name = type(self.model).__name__
        expected = " or ".join(f"{name}.{method}" for method in self.methods)
        found = list(dict.fromkeys(self.problems))
        others = [other for other in dict.fromkeys(self.others) if other not in self.methods]
        past = [other for other in dict.fromkeys(self.others) if other in self.methods]
        if others:
            called = "" if self.calls else f", and {expected} was not called"
            found.append(
                f"{', '.join(f'{name}.{other}' for other in others)} sampled unguided{called}: "
                f"pass method={others[0]!r} to `attach` to guide it"
            )
        if past:
            found.append(
                f"{name}.{past[0]} was called past its hook, through the class or as a method that was kept from "
                "outside the context: call it as a method of the model, inside the context"
            )
        if not found and not self.calls:
            found.append(
                f"{expected} was not called inside the context: call it there, or pass method= to `attach` if this "
                "model samples through another method"
            )
        return "; ".join(found) or None
