# The two commands of the README are `make run` and `make test`; `make` alone lists all.
#   PYTHON    the Python (>= 3.10) that .venv is made from
#   PIP_ARGS  more for pip, e.g. make setup PIP_ARGS="-c constraints.txt"
#   FUZZ      long: also 250 faults more; FUZZ_SEED repeats the inputs of a fuzz before
#   ARGS      more for the command that a target runs, e.g. make run ARGS="+experiment=faces_500 seed=1"
PYTHON ?= python3
PIP_ARGS ?=
FUZZ ?=
FUZZ_SEED ?=
ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed
IN_PARALLEL := --numprocesses=logical --maxprocesses=8 --dist=loadfile
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help setup run smoke test test-all test-lowest fuzz check bench bench-architectures reproduce clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

setup: $(STAMP) ## make .venv and install the package with its tools (only if pyproject.toml changed)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "Python >= 3.10 is needed; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1). Choose one: make setup PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON) -m venv' lacks ensurepip. Install it (Debian, Ubuntu: apt-get install python3-venv) or choose another: make setup PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing into .venv; the first time this downloads PyTorch and takes some minutes."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=22.3'  # older ones fail on editable installs
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[dev]'
	@touch $@

run: $(STAMP) ## the main job: attack, remove 64 names and faces, attack again
	@$(BIN)/python -m backdoor_privacy $(ARGS)

smoke: $(STAMP) ## the whole line, tiny: seconds
	@$(BIN)/python -m backdoor_privacy +experiment=smoke $(ARGS)

test: $(STAMP) ## the fast tests, on all cores: CPU, no network
	@$(BIN)/python -m pytest -q $(IN_PARALLEL) --durations=10 -m "not slow and not network and not gpu" $(ARGS)

test-all: $(STAMP) ## every test
	@$(BIN)/python -m pytest -q $(ARGS)

test-lowest: $(STAMP) ## the fast tests with the lowest versions that pyproject.toml allows, in .venv-lowest; before a release
	@$(PYTHON) -m venv .venv-lowest
	@$(BIN)/python tests/lowest.py > .venv-lowest/lowest.txt
	@.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r .venv-lowest/lowest.txt
	@.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c .venv-lowest/lowest.txt -e '.[dev]'
	@.venv-lowest/bin/python -m pytest -q $(IN_PARALLEL) \
	  -W ignore::DeprecationWarning -W ignore::FutureWarning -m "not slow and not network and not gpu" $(ARGS)

fuzz: $(STAMP) ## 4,500 hostile inputs and 60 kills and full disks, half an hour; FUZZ=long: 250 faults more, overnight
	@$(BIN)/python -m fuzz $(if $(FUZZ_SEED),--seed $(FUZZ_SEED)) $(if $(filter long,$(FUZZ)),--long) $(ARGS)

check: $(STAMP) ## ruff, format and types
	@$(BIN)/python -m ruff check --quiet .
	@$(BIN)/python -m ruff format --quiet --check .
	@$(BIN)/python -m mypy --no-error-summary

bench: $(STAMP) ## time and memory of the main runs
	@$(BIN)/python benchmarks/bench.py $(ARGS)

bench-architectures: $(STAMP) ## every architecture in its true size: seconds a step, memory, export
	@$(BIN)/python benchmarks/architectures.py $(ARGS)

reproduce: $(STAMP) ## the sweeps of experiments/, as far as they are not done; --list in ARGS: only say how long
	@$(BIN)/python experiments/reproduce.py $(ARGS)

clean: ## delete caches and builds; .venv and runs/ stay
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find . \( -path ./.venv -o -path ./.venv-lowest -o -path ./.git -o -path ./runs \) -prune -o -type d -name __pycache__ -exec rm -rf {} +
