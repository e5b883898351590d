# Every target builds its own environment first. `make` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
RIVALS := $(VENV)/.rivals

help: ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(INSTALLED): requirements-test.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed (the engine has no wheels for others); set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "'$(PYTHON) -m venv' failed: on Debian and Ubuntu install the package python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-test.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Inner loops and steps: compiled if there is a C compiler, else the plain form runs.
$(READY): $(INSTALLED) setup.py $(wildcard operators/*.py operators/*.pxd operators/*.pyx operators/*.pxi)
	@$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

# What only the benchmarks need: others' engines, a profiler.
$(RIVALS): requirements-bench.lock $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@touch $@

venv: $(READY) ## make the virtual environment in .venv

demo: $(READY) ## generated market through the whole flow, then a table of events
	$(BIN)/alpha demo

live: $(READY) ## connect to the public venue and run; goes on where it was stopped
	@test -d var/recovery || { mkdir -p var/recovery && $(BIN)/python -m dataflows.recovery var/recovery 1; }
	$(BIN)/python -m bytewax.run dataflows.live -r var/recovery -s 10 -b 0

replay: $(READY) ## replay a tick log: make replay LOG=path OUT=dir
	$(BIN)/alpha replay "$(LOG)" --out "$(OUT)"

test: $(READY) ## the whole test suite, in two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile

fast: $(READY) ## the tests that need no engine and no server
	$(BIN)/python -m pytest -m "not engine and not slow and not service"

golden: $(READY) ## byte-equality of the pinned outputs
	$(BIN)/python -m pytest tests/golden

portability: $(READY) ## one digest of the golden set under other Pythons, kernels and C libraries
	$(BIN)/python -m bench.portability $(WORLDS)

simulate: $(READY) ## the whole job under random faults: make simulate SEEDS=500; without SEEDS until Ctrl-C
	@mkdir -p bench/results
	$(BIN)/python -m fixtures.simulation $(if $(SEEDS),--seeds $(SEEDS)) --out bench/results/simulate.json --commit "$$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"

crash: $(READY) ## kill the flow at every boundary and compare; figures in bench/results/crash.json
	$(BIN)/python tests/crash/matrix.py $(if $(SEED),--seed $(SEED))

bench: $(RIVALS) ## the benchmark suite: make bench BENCH="--quick"; figures in bench/results/bench.json
	$(BIN)/python -m bench $(BENCH) --commit "$$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"

flame: $(RIVALS) ## a flame graph of a replay under var/bench/: make flame FLAME="--what bars-events"
	$(BIN)/python -m bench.flame $(FLAME)

check: $(READY) ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

lock: $(READY) ## pin the dependencies again (needs uv)
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header -q -o requirements.lock
	uv pip compile pyproject.toml --extra test --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header -q -o requirements-test.lock
	uv pip compile pyproject.toml --extra bench -c requirements-test.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header -q -o requirements-bench.lock

clean: ## remove everything that was generated
	rm -rf $(VENV) var build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis operators/_compiled_*

.PHONY: help venv demo live replay test fast golden crash simulate portability bench flame check lock clean
