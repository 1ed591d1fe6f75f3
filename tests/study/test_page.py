"""docs/study.md shows what was measured with the shipped weights."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ssg_kernels.demo import weights
from study import report
from study.design import ROWS, Design
from study.record import fingerprint

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return json.loads((DOCS / "study" / "study.json").read_text())


def test_it_is_of_the_shipped_weights_and_the_whole_design(found: dict[str, Any]) -> None:
    assert found["model"] == fingerprint(weights.load())
    assert found["design"] == json.loads(json.dumps(asdict(Design())))


def test_its_rows_are_those_of_the_design(found: dict[str, Any]) -> None:
    assert list(found["rows"]) == list(ROWS)
    for row, wanted in ROWS.items():
        sampling = found["rows"][row]["sampling"]
        assert {name: sampling[name] for name in wanted} == wanted


def test_the_page_shows_its_table_and_pictures(found: dict[str, Any]) -> None:
    page = (DOCS / "study.md").read_text()
    table, front = report.table(found), report.front(found)
    assert "\n".join(table) in page
    assert (DOCS / "study" / "table.md").read_text().splitlines() == [*table, "", *front]
    for line in re.findall(r"^\| \w+: .*$", page, re.M):
        assert line in front
    pictures = re.findall(r"\]\((study/\w+\.png)\)", page)
    assert {path.name for path in (DOCS / "study").glob("*.png")} == {Path(p).name for p in pictures}
