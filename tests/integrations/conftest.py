"""A warning that a guided sampler went by unguided is an error in these tests, unless a test expects it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from ssg_kernels.integrations import GuidanceWarning


@pytest.fixture(autouse=True)
def guidance_warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", GuidanceWarning)
        # Many tests have contexts in which nothing samples, or which nobody enters.
        for text in (".* was not called inside the context", ".* was never entered"):
            warnings.filterwarnings("ignore", text, GuidanceWarning)
        yield
