"""Triton decides at import whether it interprets or compiles kernels, so one session runs one kind of test.

The usual session compiles. It runs the interpreter's tests in a separate process (test_in_the_interpreter.py).
"""

from __future__ import annotations

import os

INTERPRETED = ("test_parity.py", "test_sample_parity.py")
COMPILED = ("test_compile_targets.py", "test_launch.py", "test_launch_plans.py", "test_in_the_interpreter.py")

collect_ignore = list(COMPILED if os.environ.get("TRITON_INTERPRET") == "1" else INTERPRETED)
