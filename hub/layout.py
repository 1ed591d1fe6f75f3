"""Lays the package out as the `kernels` package of Hugging Face loads it: `python hub/layout.py FOLDER`.

FOLDER becomes a repository of the Hub, with a card and one variant of the build. The rules of that project ask that
several versions can be loaded at once. So the operators, and the modules that import each other, get the name of the
commit, and the compiled code is one module.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
NAME = "ssg-kernels"
# The commands, and what only they need.
LEFT_OUT = {"__main__.py", "info.py", "selftest.py", "tour.py", "demo", "evaluate"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the repository of the Hub is written")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "hub", help="folder of the objects")
    arguments = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short=8", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    unique = f"_ssg_kernels_{commit}"
    compile_module(arguments.build, unique)
    facts = json.loads((arguments.build / "_build.json").read_text(encoding="utf-8"))
    variant = arguments.folder / "build" / variant_name(facts)
    shutil.rmtree(variant, ignore_errors=True)
    copy_modules(variant, unique)
    shutil.copy(arguments.build / "_C.abi3.so", variant)
    write_metadata(variant, unique, facts)
    shutil.copy(ROOT / "hub" / "card.md", arguments.folder / "README.md")
    print(variant)


def compile_module(build: Path, unique: str) -> None:
    configure = ["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", f"-DSSG_NAMESPACE={unique}"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-DSSG_TORCH_DIR={Path(torch.__file__).parent}"]
    configure += ["-DSSG_BUILD_HOST=OFF", *shlex.split(os.environ.get("CMAKE_ARGS", ""))]
    for command in (configure, ["cmake", "--build", build, "--target", "_C"]):
        subprocess.run([*map(str, command)], check=True, stdout=sys.stderr)


def variant_name(facts: dict[str, str]) -> str:
    major, minor = facts["torch_floor"].split(".")
    cuda = facts.get("cuda")
    backend = "cu" + "".join(cuda.split(".")[:2]) if cuda else "cpu"
    machine = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
    return f"torch-stable-abi{major}{minor}-{backend}-{machine}-{platform.system().lower()}"


def copy_modules(variant: Path, unique: str) -> None:
    package = ROOT / "ssg_kernels"
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        if relative.parts[0] in LEFT_OUT:
            continue
        (variant / relative).parent.mkdir(parents=True, exist_ok=True)
        text = renamed(path.read_text(encoding="utf-8"), "." * len(relative.parts), unique)
        (variant / relative).write_text(text, encoding="utf-8")


def renamed(text: str, here: str, unique: str) -> str:
    """The source of a module with relative imports, and with operators of the namespace `unique`."""
    text = re.sub(r"^(\s*)from ssg_kernels\.(\S+) import", rf"\1from {here}\2 import", text, flags=re.M)
    text = re.sub(r"^(\s*)from ssg_kernels import", rf"\1from {here} import", text, flags=re.M)
    text = text.replace('import_module("ssg_kernels.', f'import_module("{unique}.')
    text = re.sub(r"\btorch\.ops\.ssg\b", f"torch.ops.{unique}", text)
    text = text.replace('Library("ssg"', f'Library("{unique}"')
    return re.sub(r"\bssg::", f"{unique}::", text)


def write_metadata(variant: Path, unique: str, facts: dict[str, str]) -> None:
    backend: dict[str, object] = {"type": "cuda" if "cuda" in facts else "cpu"}
    if "cuda" in facts:
        real = [a.removesuffix("-real") for a in facts["cuda_architectures"].split() if a.endswith("-real")]
        backend["archs"] = [f"{a[:-1]}.{a[-1]}" for a in real]
    files = {
        path.relative_to(variant).as_posix(): base64.b64encode(
            hashlib.sha256(path.read_bytes()).digest()
        ).decode()
        for path in sorted(variant.rglob("*"))
        if path.is_file()
    }
    metadata = {
        "id": unique,
        "name": NAME,
        "version": 0,
        "license": "MIT",
        "python-depends": [],
        "backend": backend,
        "digest": {"algorithm": "sha256", "files": files},
    }
    (variant / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
