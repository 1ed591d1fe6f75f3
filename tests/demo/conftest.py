"""The networks that the tests of the demo run on."""

from __future__ import annotations

from support.demo_models import shipped, tiny

__all__ = ["shipped", "tiny"]
