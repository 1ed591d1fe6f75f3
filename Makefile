# Every target sets up .venv first, and again only when pyproject.toml or setup.py change; C++ is rebuilt incrementally.
# ARGS is handed on: make test ARGS="-k cfg", make demo ARGS="--batch 8".

VENV := .venv
READY := $(VENV)/.ready
TORCH ?= torch==2.13.0
# Python 3.11, or the newest from 3.10 on.
PYTHON ?= $(shell for p in python3.11 python3.14 python3.13 python3.12 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
CPP := $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp python/*.cpp tests/cpp/*.cpp)

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help setup build demo test bench lint format sanitize clean

help:
	@echo "make setup | demo | test | bench | lint | format | sanitize | clean"

setup: build
	@python -m ssg_kernels info

$(READY): pyproject.toml setup.py
	@[ -n "$(PYTHON)" ] || { echo "Python 3.10 or newer was not found; name it: make PYTHON=/path/to/python3"; exit 1; }
	@[ -x $(VENV)/bin/python ] || { echo "Setting up $(VENV) with $(PYTHON) (minutes, once)"; $(PYTHON) -m venv $(VENV); }
	@python -m pip install -q "$(TORCH)" "setuptools>=77" cmake ninja pybind11
	@CMAKE_ARGS="$(CMAKE_ARGS) -DSSG_BUILD_HOST=ON" python -m pip install -q --no-build-isolation -e ".[dev]"
	@touch $@

# Without a C++ compiler there is no build folder, and the package is pure Python.
build: $(READY)
	@[ ! -d build/dev ] || { cmake --build build/dev -- --quiet && cmake --install build/dev --prefix ssg_kernels >/dev/null; }

demo: build
	@python -m ssg_kernels demo $(ARGS)

test: build
	@python -m pytest $(ARGS)

bench: build
	@python -m bench $(ARGS)

lint: $(READY)
	ruff check .
	ruff format --check .
	clang-format --dry-run -Werror $(CPP)
	mypy

format: $(READY)
	ruff check --fix .
	ruff format .
	clang-format -i $(CPP)

sanitize: $(READY)
	@cmake -S . -B build/sanitize -G Ninja -DSSG_SANITIZE=ON >/dev/null
	@cmake --build build/sanitize -- --quiet
	build/sanitize/kernel_sanitize

clean:
	rm -rf build dist *.egg-info ssg_kernels/*.so ssg_kernels/_build.json $(READY)
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
