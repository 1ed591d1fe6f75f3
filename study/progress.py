"""Progress bars: updated twice a second on a terminal, once a minute in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]


def bar(items: Iterable[Any] | None, name: str, total: int, begun: int = 0, unit: str = "it") -> tqdm:
    """A bar over `items`, or one that its `update` advances. Of the `total`, `begun` are already done."""
    patience = 0.5 if sys.stderr.isatty() else 60
    return tqdm(
        items,
        desc=name,
        total=total,
        initial=begun,
        unit=unit,
        mininterval=patience,
        maxinterval=patience,
    )
