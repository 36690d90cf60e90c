# Every target does its own set-up: a virtual environment in .venv, exactly the versions of requirements.lock.
PYTHON ?= python3
EXPERIMENT ?= configs/experiments/demo.yaml
CORES ?= $(shell nproc 2>/dev/null || echo 2)
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup demo paper-tables restore archive plan test bench chaos check format lock schemas docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## the virtual environment, from requirements.lock

# uv installs in a fraction of pip's time; it does not read pip's find-links, so they are passed on.  Bytecode is
# compiled now, not at every start of every job.
$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "lora-ns needs Python 3.11 or newer; name one: make setup PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.lock)"
	env $${PIP_FIND_LINKS:+UV_FIND_LINKS="$$PIP_FIND_LINKS"} $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -r requirements.lock
	env $${PIP_FIND_LINKS:+UV_FIND_LINKS="$$PIP_FIND_LINKS"} $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q src
	@touch $@

paper-tables: setup  ## run EXPERIMENT (default: the embedded demo) and show its tables
	@$(BIN)/snakemake --cores $(CORES) --config experiment="$(EXPERIMENT)"
	@$(BIN)/lora-ns tables "$(EXPERIMENT)"

demo: setup  ## the embedded demo, whatever EXPERIMENT says
	@$(MAKE) --no-print-directory paper-tables EXPERIMENT=configs/experiments/demo.yaml

restore: setup  ## bring back what DVC keeps, verify every checksum, and say what is still to be made
	$(BIN)/dvc pull
	$(BIN)/lora-ns verify --stored
	$(BIN)/snakemake --dry-run --quiet rules --config experiment="$(EXPERIMENT)"

archive: setup  ## one folder of EXPERIMENT to deposit with a paper, archive/<name>
	@$(BIN)/lora-ns archive "$(EXPERIMENT)"

plan: setup  ## what EXPERIMENT would do, and what is done already
	@$(BIN)/lora-ns plan "$(EXPERIMENT)"

# one process more than there are cores: the tests of a cluster wait for its clock most of the time
test: setup  ## all tests
	$(BIN)/python -m pytest -n $$(( $(CORES) + 1 )) --dist loadfile --no-loadscope-reorder

bench: setup  ## every benchmark against its peers (hours on two cores); what came out stands in benchmarks/RESULTS.md
	for name in single_run sweep evaluation tokenizing memory_predictions start_up; do $(BIN)/python benchmarks/$$name.py; done

chaos: setup  ## one training killed thirty times over, whose adapter has to have the bytes of the same left alone
	$(BIN)/python benchmarks/chaos.py --kills 30

check: setup  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/mypy

format: setup  ## put code into the house format
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/snakefmt --quiet Snakefile workflow

# torch pins its platform's own packages, so neither they nor a local build's mark are locked
lock: setup  ## bring requirements.lock up to date with pyproject.toml
	env $${PIP_FIND_LINKS:+UV_FIND_LINKS="$$PIP_FIND_LINKS"} $(BIN)/uv pip compile --quiet --python $(BIN)/python pyproject.toml --extra dev \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links -o requirements.lock
	sed -i -e 's/^\(torch==[0-9.]*\)+.*/\1/' -e '/^nvidia-/d' -e '/^cuda-/d' -e '/^triton==/d' requirements.lock

schemas: setup  ## what the installed libraries accept, and configs/schema, by which editors complete the configs
	$(BIN)/python -m lora_ns.config.library_fields
	for kind in task method experiment; do $(BIN)/lora-ns schema $$kind > configs/schema/$$kind.json; done

docs: setup  ## the documentation as a site, docs/_build/html/index.html
	$(BIN)/python -m sphinx -q -n -W --keep-going -b html docs docs/_build/html

clean:  ## remove logs and scratch; artefacts stay
	rm -rf logs results/scratch .pytest_cache .mypy_cache .ruff_cache
	find data results -name '.*.tmp-*' -prune -exec rm -rf {} + 2>/dev/null || true
