# `make study` and `make test` need nothing but Python 3.11 or newer; both set up .venv themselves.
PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help study report test test-slurm lint format docs bench scoreboard schema clean
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

study: $(VENV)/.runtime ## Run the studies of config.yaml: tables and figures in results/studies
	$(BIN)/snakemake --cores $(CORES)
	@echo "Figures and tables: results/studies/*/figures and results/studies/*/tables"

report: study ## Put tables and figures into one file: results/report.html
	$(BIN)/snakemake --report results/report.html

test: $(VENV)/.test ## Run the tests
	$(BIN)/python -m pytest -n $(CORES)

test-slurm: ## Break a study on a real Slurm of one node (root on Debian; else says why not)
	-@$(MAKE) --no-print-directory .venv-slurm/.done
	tests/slurm/run.sh

lint: $(VENV)/.lint $(VENV)/.test ## Check style, types and the workflow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/Snakefile workflow/rules
	$(BIN)/snakemake --lint

format: $(VENV)/.lint ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/Snakefile workflow/rules

docs: $(VENV)/.docs ## Build the documentation: docs/_build/html/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

bench: $(VENV)/.runtime ## Measure the engines' speed, and what the workflow costs
	$(BIN)/python benchmarks/engines.py
	$(BIN)/python benchmarks/batching.py
	$(BIN)/python benchmarks/workflow.py

scoreboard: export MEASURED := $(MEASURED)
scoreboard: $(VENV)/.runtime ## Simulate measured servers, report errors: MEASURED="a.csv b.csv"
	$(BIN)/snakemake --cores 1 scoreboard

schema: $(VENV)/.runtime ## Write workflow/schemas/config.schema.json anew
	$(BIN)/simlib study schema --output workflow/schemas/config.schema.json

clean: ## Remove results and everything that was built, but not .venv
	rm -rf results .snakemake build docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name it with: make PYTHON=python3.x ..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "Python's venv module is missing (Debian: apt install python3-venv)" >&2; exit 2; }

$(VENV)/.runtime: pyproject.toml $(VENV)/bin/python
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.test $(VENV)/.lint $(VENV)/.docs: $(VENV)/.%: pyproject.toml $(VENV)/.runtime
	$(INSTALL) --editable '.[$*]'
	@touch $@

# apart from .venv: without a Slurm controller, this plugin slows every start of snakemake
.venv-slurm/.done: pyproject.toml
	$(PYTHON) -m venv .venv-slurm
	.venv-slurm/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[slurm]'
	@touch $@
