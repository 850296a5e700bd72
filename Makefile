# Everything here needs make and Python 3.11 or newer; `make setup` brings the rest into .venv.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.SUFFIXES:
.PHONY: help setup test check format coverage demo bench simulate crashpoints campaign machines zoo fuzz lock clean

# A name on PATH may be a shim that does not run, so each candidate is tried.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$python" && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
LOCKS := deploy/requirements.lock deploy/requirements-dev.lock

# The environment has no pip of its own where it was made without ensurepip.
PIP = $$($(BIN)/python -m pip --version >/dev/null 2>&1 && echo $(BIN)/python -m pip || \
	echo $(PYTHON) -m pip --python $(BIN)/python) --disable-pip-version-check --quiet

# Pins that are in a lock already are kept: `make lock UV_ARGS=--upgrade` moves them.
UV_ARGS ?=
UV_COMPILE = $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command 'make lock' $(UV_ARGS) pyproject.toml

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1	\2/p' Makefile | while IFS='	' read -r name text; do \
		printf 'make %-11s %s\n' "$$name" "$$text"; done

setup: $(STAMP) ## Make .venv from the locks and install queuectl into it

$(STAMP): pyproject.toml $(LOCKS)
	@test -n "$(PYTHON)" || { echo 'error: no Python 3.11 or newer on PATH; name one: make PYTHON=/path/to/python3' >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'error: queuectl needs Python 3.11 or newer, and $(PYTHON) is not' >&2; exit 1; }
	@echo 'Setting up $(VENV) (once)' >&2
	@$(BIN)/python -c '' 2>/dev/null || { \
		if "$(PYTHON)" -c 'import ensurepip' 2>/dev/null; then "$(PYTHON)" -m venv --clear $(VENV); \
		elif "$(PYTHON)" -m pip --version >/dev/null 2>&1; then "$(PYTHON)" -m venv --clear --without-pip $(VENV); \
		else echo 'error: $(PYTHON) has neither ensurepip nor pip; on Debian: apt install python3-venv' >&2; exit 1; fi; }
	@$(PIP) install --require-hashes --requirement deploy/requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q broker cli queuectl worker # pip does it for all that is not editable
	@touch $@

test: setup ## Run every test but the slow ones; ARGS go to pytest
	@$(BIN)/python -m pytest -m 'not slow' $(ARGS)

check: setup ## Check format, lint and types, then run the tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory test

format: setup ## Format the code and apply the safe lint fixes
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

coverage: setup ## Run the tests and say what they did not reach; the cores and the store must be whole
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -m 'not slow' $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report
	@$(BIN)/coverage report --fail-under=100 --include='broker/core/*,broker/store/*,broker/lifecycle.py,broker/backoff.py,worker/core/*'

demo: setup ## Set up and run the main job, from enqueue to dead letter
	@PATH="$(CURDIR)/$(BIN):$$PATH" deploy/demo/demo.sh

bench: setup ## Run the benchmarks; ARGS go to them
	@$(BIN)/python -m tests.bench $(ARGS)

simulate: setup ## Run SEEDS simulated clusters from seed FROM on, with faults of every kind
	@$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),1000) --from $(or $(FROM),1) $(ARGS)

crashpoints: setup ## Lose the power at STATES moments of the store's work, from seed FROM on
	@$(BIN)/python -m tests.crashpoints --states $(or $(STATES),5000) --from $(or $(FROM),1) $(ARGS)

campaign: setup ## Kill, stop and cut off real brokers and workers for MINUTES, as SEED has it
	@$(BIN)/python -m tests.campaign --seed $(or $(SEED),1) --minutes $(or $(MINUTES),5) $(ARGS)

machines: setup ## Pull the cables of machines with networks of their own (namespaces) out, and put them in again
	@$(BIN)/python -m tests.machines $(ARGS)

zoo: setup ## Run the nastiest commands, each way of ending them, TIMES over
	@$(BIN)/python -m tests.zoo --times $(or $(TIMES),1) $(ARGS)

fuzz: setup ## Feed INPUTS pieces of nonsense to decoder, dispatch and renderer, from SEED on
	@$(BIN)/python -m tests.fuzz --inputs $(or $(INPUTS),100000) --seed $(or $(SEED),1) $(ARGS)

flood: setup ## Flood a broker with keys for SECONDS in each of several ways, and say who notices
	@$(BIN)/python -m tests.flood --seconds $(or $(SECONDS),60) $(ARGS)

lock: setup ## Write the lock files again from pyproject.toml
	@test -x $(BIN)/uv || $(PIP) install uv
	@$(UV_COMPILE) --output-file deploy/requirements.lock
	@$(UV_COMPILE) --extra dev --constraint deploy/requirements.lock --output-file deploy/requirements-dev.lock

clean: ## Remove .venv, caches and build products
	@rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage .coverage.* htmlcov
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
