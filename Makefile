# Everything from a fresh clone with only Python 3.11+ and make: each target installs into .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# A process for each of up to four cores, each with one thread; the tests of a file share what they make. Modules are
# compiled once and not by each of the many processes that tests start, whatever the shell has set.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow test-all faults lint bench docs clean

help: ## Say what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Make .venv with flowmap and what it needs

$(INSTALLED): pyproject.toml requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("flowmap needs Python 3.11 or newer, not " + sys.version.split()[0] + "; name one with: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements/constraints.txt -e '.[dev]'
	@touch $@

quickstart: $(INSTALLED) ## Distil a digits model and open nothing: the report's path is printed at the end
	$(BIN)/flowmap run recipes/quickstart.toml

test: $(INSTALLED) ## Run the tests (minutes)
	$(PYTEST) -m "not slow"

test-slow: $(INSTALLED) ## Run the slow end-to-end tests
	$(PYTEST) -m slow

test-all: test test-slow ## Run all tests

faults: $(INSTALLED) ## Kill, fill disks, damage files and feed nonsense; a table of what became of it (docs/faults.md)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults $(FAULTS)

lint: $(INSTALLED) ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED) ## Time the loop, the tangents and the start-up, as ratios
	$(BIN)/pytest tests/benchmarks -o addopts='' --benchmark-only -s

docs: $(INSTALLED) ## Build the documentation, site/index.html: readable without a network
	PYTHONPATH=docs $(BIN)/zensical build --strict --clean

clean: ## Remove .venv and caches (never runs/)
	rm -rf .venv .cache site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
