# Every target sets up what it needs: `make reproduce` and `make test` work in a fresh clone with Python 3.11-3.13 and make.
#
#   make reproduce [TIER=smoke] [ONLY=07] [DEVICE=cpu] [DATA=folder]   run notebooks 00-11, results under runs/
#   make test        ruff, mypy, and every test (the notebooks too)
#   make lab         open JupyterLab on the notebooks, which share what they train in runs/lab
#   make bench       the benchmarks
#   make gpu [MINUTES=10] [TIER=small] [DATA=folder]   what a rented GPU should do: its tests, times, training; into runs/gpu
#   make figures     rebuild the committed notebooks, figures/ and figures/results/ [ONLY=07]
#   make book        the course as a site: build/book/index.html
#   make exercises   write the learner's copies of the notebooks into learner/
#   make lint | setup | clean

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: book help setup reproduce test quick lab bench gpu figures exercises lint clean

TIER ?= smoke
MINUTES ?= 10
ONLY ?=
DEVICE ?= auto
DATA ?=

# Tools run as modules, so that the commands do not depend on the folder that the environment was made in.
PY := .venv/bin/python
# The notebooks' kernel comes from .venv, whatever the user has registered; the progress bars stay out of stored outputs.
export JUPYTER_PREFER_ENV_PATH := 1
export PYTHONNOUSERSITE := 1
# OpenMP's threads sleep when they have nothing to do: see itersr/__init__.py. Here for kernels that load torch first.
export OMP_WAIT_POLICY ?= PASSIVE
export KMP_BLOCKTIME ?= 0
# Perceptual metrics need weights that torch.hub would download; a folder of them beside the clone is used where there is one.
ifndef TORCH_HOME
ifneq ($(wildcard ../shared/data/torch_home),)
export TORCH_HOME := $(abspath ../shared/data/torch_home)
endif
endif

help:
	@sed -n 's/^# \{0,1\}//; /^SHELL/q; 2,$$p' Makefile

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml
	@find_python() { \
	  for python in "$${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do \
	    [ -n "$$python" ] || continue; \
	    "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1 || continue; \
	    echo "$$python"; return; \
	  done; \
	  echo "itersr needs Python 3.11, 3.12 or 3.13: none found as python3, python3.11, ...; set PYTHON=/path/to/python" >&2; \
	  return 1; \
	}; \
	usable() { "$$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' && "$$1" -m pip --version; }; \
	rm -f $@; \
	if ! usable $(PY) >/dev/null 2>&1; then \
	  python=$$(find_python); \
	  echo "Making .venv with $$("$$python" --version)"; \
	  if ! "$$python" -m venv --clear .venv >.venv-log 2>&1; then \
	    echo "$$python -m venv failed: on Debian and Ubuntu, apt install python3-venv; its message was:" >&2; \
	    tail -n 5 .venv-log >&2; rm -rf .venv .venv-log; exit 1; \
	  fi; \
	  rm -f .venv-log; \
	fi
	@echo "Installing requirements.lock"
	@$(PY) -m pip install --quiet --quiet --disable-pip-version-check uv
	@$(PY) -m uv pip install --quiet --python $(PY) --no-deps -r requirements.lock
	@$(PY) -m uv pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

reproduce: setup
	$(PY) -m itersr reproduce --tier $(TIER) --device $(DEVICE) $(if $(ONLY),--only "$(ONLY)") $(if $(DATA),--data "$(DATA)")

lint: setup
	$(PY) -m ruff check .
	$(PY) -m mypy

# One pytest run for all, so that its last line sums up everything, in two processes (tests/conftest.py shares the work out):
# in one the papermill run of all notebooks and then nbval, which finds the checkpoints of that run in ITERSR_OUT.
# Each process has half of the cores.
CORES := $(shell getconf _NPROCESSORS_ONLN)
PYTEST := OMP_NUM_THREADS=$$(( $(CORES) > 1 ? $(CORES) / 2 : 1 )) $(PY) -m pytest -n 2 --dist loadscope
NBVAL := --nbval-lax --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 600
test: lint
	ITERSR_TIER=smoke ITERSR_OUT="$(CURDIR)/runs/test/figures" $(PYTEST) $(NBVAL) tests $(wildcard notebooks/*.ipynb)

# The tests of the code alone, without running a notebook of the course.
quick: lint
	$(PYTEST) -m "not slow" tests

lab: setup
	ITERSR_OUT="$(CURDIR)/runs/lab/figures" $(PY) -m jupyterlab notebooks

bench: setup
	$(PY) -m tests.bench
	$(PY) -m tests.benchmarks.bench_training --tier tiny
	$(PY) -m tests.benchmarks.bench_color
	$(PY) -m tests.benchmarks.bench_degradation
	$(PY) -m tests.benchmarks.bench_patches
	$(PY) -m tests.benchmarks.bench_published

# No setup: a rented machine has PyTorch, and often no package index. DEVICE=cpu TIER=smoke rehearses it.
gpu: TIER := $(if $(filter command line environment,$(origin TIER)),$(TIER),small)
gpu: DEVICE := $(if $(filter cpu,$(DEVICE)),cpu,cuda)
gpu:
	$(if $(wildcard $(PY)),$(PY),python3) -m tests.gpu --tier $(TIER) --minutes $(MINUTES) --device $(DEVICE) $(if $(DATA),--data "$(DATA)")

figures: setup
	$(PY) -m tests.notebook_tools build $(ONLY)
	$(PY) -m tests.ledger_tools

exercises: setup
	$(PY) -m tests.notebook_tools exercises

# The course as a site, in build/book, from an environment of its own.
book: setup
	$(PY) -m tests.book

clean:
	rm -rf .venv build dist runs learner *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
