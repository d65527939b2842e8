# `make demo` and `make test` do all the set-up themselves.
PYTHON ?= python3
VENV ?= .venv
# What the environment is made with; the package itself takes any torch >= 2.11.
TORCH ?= torch==2.14.1 torchvision==0.29.1
BIN := $(VENV)/bin
CROSS := build/cross
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# PyTorch compiles side by side where it finds ninja, else file by file.
export PATH := $(abspath $(BIN)):$(PATH)

# Environments and trees of check-oldest and release-check.
CHECKS ?= build/checks

.PHONY: help env build demo test site cpp-test cross-test machine-code lint check-oldest release-check gpu gpu-run clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 16

demo: build  ## train on the embedded set, generate from captions, write demo_out/index.html
	$(BIN)/dmgan-fast demo

# Tests of the page in a browser (tests/web/test_browser.py) need a Chromium on PATH or in DMGAN_CHROMIUM, on Debian the
# package chromium; without it they are skipped and say so. Those over HTTP always run.
test: build lint cpp-test  ## lint, types, layers, all tests
	$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.environment  ## ruff, spelling and terms, mypy, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/codespell $(TERMS) README.md CONTRIBUTING.md SECURITY.md docs
	rm -rf build/prose && $(BIN)/python -m tools.prose build/prose $(CODE) && $(BIN)/codespell $(TERMS) build/prose
	$(BIN)/mypy
	$(BIN)/lint-imports

# The words that CONTRIBUTING lists, in prose and in what the code says: not in names, or idioms as "both sides".
CODE := dmgan_fast kernels csrc benchmarks tools
TERMS := --dictionary tools/terms.txt --skip "*.svg,*.png,*.json,*.css" \
	--ignore-regex '`+[^`]*`+|\]\([^)]*\)|[Mm]odel cards?|(both|each|either|one|other|the same|shorter|longer) sides?( by side)?|side by side|last side only|card:' \
	--ignore-multiline-regex '(?m)^```.*?^```$$'

site: build  ## the documentation as a web site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open build/site/index.html"

cpp-test: build  ## C++ tests; builds what Python tests of C++ internals load
	$(BIN)/cmake -S . -B build/cpp -DPython_EXECUTABLE=$(abspath $(BIN)/python) >/dev/null
	$(BIN)/cmake --build build/cpp -j 2 >/dev/null
	$(BIN)/ctest --test-dir build/cpp -j 2 --output-on-failure

check-oldest: env  ## torch 2.11 with Triton 3.6: builds, compiles every kernel for every card, tests the ops
	$(BIN)/python -m tools.checks oldest --folder $(CHECKS)

release-check: env  ## sdist and wheel; dependencies audited; the wheel with the oldest and newest PyTorch and Python, and without a compiler
	$(BIN)/python -m tools.checks release --folder $(CHECKS)

cross-test: $(CROSS)/_cpu_neon.abi3.so $(CROSS)/cross  ## the CPU library for ARM; its kernels' tests in an emulator
	qemu-aarch64 $(CROSS)/cross

# What its code for hot loops is: tests/native/test_machine_code.py looks for spills and fused multiply-adds.
COMPILER ?= clang++
BY := build/machine-code/$(COMPILER)
machine-code: build  ## the CPU libraries by another compiler, and the test of their hot loops: COMPILER=clang++-14
	CXX=$(COMPILER) DMGAN_FAST_CUDA=0 $(BIN)/python setup.py -q build_ext --debug --build-lib $(BY) --build-temp $(BY)
	DMGAN_MACHINE_CODE=$(BY)/dmgan_fast $(BIN)/python -m pytest -p no:xdist tests/native/test_machine_code.py

CROSS_CXX := aarch64-linux-gnu-g++
CROSS_FLAGS = -O3 -std=c++20 -ffp-contract=fast -Wall -Wno-psabi -march=armv8-a \
	$(shell $(BIN)/python -c 'import sysconfig; from importlib.util import find_spec as f; \
	print("-isystem", f("torch").submodule_search_locations[0] + "/include", "-isystem", sysconfig.get_path("include"))')

# PyTorch for ARM is not here: symbols of the library that PyTorch defines stay open.
$(CROSS)/_cpu_neon.abi3.so: $(patsubst csrc/cpu/%.cpp,$(CROSS)/%.o,$(wildcard csrc/cpu/*.cpp))
	$(CROSS_CXX) -shared $^ -o $@

$(CROSS)/%.o: csrc/cpu/%.cpp $(wildcard csrc/*.h csrc/cpu/*.h) | $(CROSS)
	$(CROSS_CXX) $(CROSS_FLAGS) -fPIC -fvisibility=hidden -DTORCH_TARGET_VERSION=0x020b000000000000 \
		-DPy_LIMITED_API=0x030a0000 -DDMGAN_CPU=dmgan_fast_cpu_neon -DDMGAN_MODULE=_cpu_neon -c $< -o $@

$(CROSS)/cross: tests/native/cross.cpp tests/native/kernels.h $(wildcard csrc/cpu/*.h) | $(CROSS)
	$(CROSS_CXX) $(CROSS_FLAGS) -static $< -o $@

$(CROSS): $(VENV)/.environment
	@command -v $(CROSS_CXX) >/dev/null && command -v qemu-aarch64 >/dev/null || \
		{ echo "install a compiler for ARM and an emulator, on Debian g++-aarch64-linux-gnu and qemu-user"; exit 1; }
	mkdir -p $@

gpu: build  ## on a machine with a GPU: build for it, prove every op there, then all of benchmarks.card, into build/gpu
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then $(MAKE) gpu-run; \
	else echo "no GPU: PyTorch sees no CUDA device on this machine; nothing was run"; fi

gpu-run:
	DMGAN_FAST_CUDA=1 $(BIN)/uv pip install -q --python $(BIN)/python --no-build-isolation --no-deps -e .
	$(BIN)/python -m pytest tests/ops
	rm -rf build/gpu
	$(BIN)/python -m benchmarks.card --out build/gpu

env: $(VENV)/.environment  ## the Python environment

build: $(VENV)/.native  ## the native library, in place

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed (PYTHON=...)"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: install your system's venv package"; rm -rf $(VENV); exit 1; }

$(VENV)/.environment: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q uv
	$(BIN)/python -c 'import torch, torchvision' 2>/dev/null || $(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip freeze -q | grep -E '^torch(vision)?==' > $(VENV)/constraints.txt
	$(BIN)/uv pip install -q --python $(BIN)/python -r pyproject.toml --extra dev -c $(VENV)/constraints.txt
	@touch $@

$(VENV)/.native: $(VENV)/.environment setup.py $(wildcard csrc/*/* csrc/*.cpp csrc/*.h)
	$(BIN)/uv pip install -q --python $(BIN)/python --no-build-isolation --no-deps -e .
	@touch $@

clean:  ## remove what building made; keep the environment
	rm -rf build dist *.egg-info dmgan_fast/*.so $(VENV)/.native demo_out
