"""Hands the build to CMake. CMakeLists.txt says what is built, and how.

SSG_BUILD_EXT=0 makes the pure-Python wheel, and SSG_BUILD_EXT=1 insists on the extension. Without it, the extension is
built if a C++ compiler is found. CMAKE_ARGS is passed on to CMake. SSG_BUILD_DIR names the folder of the objects, which
are compiled only where they are not up to date.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
TORCH_MISSING = (
    "ssg-kernels compiles against the headers of your torch and found none: run `pip install torch` first, then "
    "install ssg-kernels again (with --no-build-isolation if your installer hides the environment; SSG_BUILD_EXT=0 "
    "installs the pure-Python package)."
)
COMPILER_MISSING = (
    "warning: no C++ compiler found, so this is the pure-Python ssg-kernels: the same results, but slow "
    "(for the fast kernels, install g++ or clang++, or set CXX)"
)


def has_compiler() -> bool:
    return bool(os.environ.get("CXX")) or any(map(shutil.which, ("c++", "g++", "clang++")))


def find_torch() -> Path | None:
    """Finds the folder of the torch package without importing it, inside an isolated build too.

    There the import path is that of the installer, but sysconfig still names the environment that is installed into.
    """
    spec = importlib.util.find_spec("torch")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    for packages in (
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        site.getusersitepackages(),
    ):
        folders.append(Path(packages, "torch"))
    return next((folder for folder in folders if (folder / "include").is_dir()), None)


def find_tool(name: str, folder_attribute: str) -> str:
    """The program of the PyPI package if that is installed: a wrapper on PATH may belong to another environment."""
    if importlib.util.find_spec(name):
        tool = shutil.which(name, path=getattr(importlib.import_module(name), folder_attribute))
        if tool:
            return tool
    return shutil.which(name) or sys.exit(
        f"ssg-kernels is built with {name}, which was not found: pip install {name}"
    )


class CMakeBuild(build_ext):
    def run(self) -> None:
        in_place = self.inplace or self.editable_mode
        package = ROOT / "ssg_kernels" if in_place else Path(self.build_lib).resolve() / "ssg_kernels"
        build = ROOT / "build" / "dev" if in_place else Path(self.build_temp).resolve()
        build = Path(os.environ.get("SSG_BUILD_DIR", build)).resolve()
        cmake = find_tool("cmake", "CMAKE_BIN_DIR")
        # Forgets the options and tools of an earlier build. CMake's --fresh would delete the objects too.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        for tools in build.glob("CMakeFiles/[0-9]*"):
            shutil.rmtree(tools)
        configure = [
            *(cmake, "-S", ROOT, "-B", build, "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja', 'BIN_DIR')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DSSG_TORCH_DIR={find_torch()}",
            *(["-DSSG_CUDA_ARCHITECTURES=native"] if in_place else []),
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        for command in (
            configure,
            [cmake, "--build", build],
            [cmake, "--install", build, "--prefix", package, *([] if in_place else ["--strip"])],
        ):
            if subprocess.run(command).returncode != 0:
                sys.exit("ssg-kernels: the build failed, see above (SSG_BUILD_EXT=0 installs pure Python)")


wanted = os.environ.get("SSG_BUILD_EXT", "")
if wanted not in ("", "0", "1"):
    sys.exit(f"SSG_BUILD_EXT must be 0 or 1, got {wanted!r}")
build_extension = wanted == "1" or (wanted == "" and has_compiler())
builds_something = not {"sdist", "egg_info", "clean"}.intersection(sys.argv)
if builds_something and not build_extension and wanted == "":
    print(COMPILER_MISSING, file=sys.stderr)
if builds_something and build_extension and find_torch() is None:
    sys.exit(TORCH_MISSING)

setup(
    ext_modules=[Extension("ssg_kernels._C", sources=[], py_limited_api=True)] if build_extension else [],
    cmdclass={"build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if build_extension else {},
)
