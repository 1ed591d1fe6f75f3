"""Triton decides at import whether kernels are interpreted or compiled: one session runs one kind of test.

The usual session compiles, and runs the interpreter's tests in a process of their own (test_in_the_interpreter.py).
"""

from __future__ import annotations

import os

INTERPRETED = ("test_parity.py", "test_sample_parity.py")
COMPILED = ("test_compile_targets.py", "test_launch.py", "test_plan.py", "test_in_the_interpreter.py")

collect_ignore = list(COMPILED if os.environ.get("TRITON_INTERPRET") == "1" else INTERPRETED)
