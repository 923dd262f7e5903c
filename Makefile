# Each target works on a fresh clone with Python >= 3.11 and make only: it makes .venv, installs, runs.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test large test-net check format bench bench-stable fuzz sim clean

demo: $(VENV)/.installed
	$(BIN)/python -m rpcnet demo $(ARGS)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

large: $(VENV)/.installed
	$(BIN)/python -m pytest -o pythonpath=tests/core tests/large $(ARGS)

test-net: $(VENV)/.installed
	$(BIN)/python -m pytest tests/realnet $(ARGS)

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy rpcnet
	$(BIN)/mypy tests examples benchmarks fuzz
	$(BIN)/python -m pytest -q tests/test_architecture.py tests/test_exports.py

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/bench.py $(ARGS)

bench-stable: $(VENV)/.installed
	$(BIN)/python benchmarks/stable.py $(ARGS)

sim: $(VENV)/.installed
	$(BIN)/python -m rpcnet sim all $(ARGS)

fuzz: $(VENV)/.installed-fuzz
	$(BIN)/python fuzz/run.py $(ARGS)

$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "rpcnet needs Python 3.11 or newer on the PATH"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev,bench]'
	@touch $@

$(VENV)/.installed-fuzz: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev,fuzz]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz
