"""What an executed kernel may do wrong."""

from __future__ import annotations


class Fault(Exception):
    """A kernel did what the PTX manual leaves undefined. `kind` says what, in a word or two."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail

    def at(self, text: str) -> Fault:
        """The same fault, with the instruction at which it happened."""
        return Fault(self.kind, f"{self.detail}, at `{text}`")
