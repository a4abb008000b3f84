# A checkout ==> .venv with fxpress in it, then one of: demo, test, lint. Needs Python 3.11 or newer, make and a C compiler.

PYTHON ?= python3
TORCH ?= torch==2.13.0
PYTEST_FLAGS ?=

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check

.PHONY: demo test lint clean

demo: .venv/run.stamp
	$(BIN)/fxpress demo
	$(BIN)/python benchmarks/all_families.py --quick

test: .venv/dev.stamp
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: .venv/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/torch.stamp:
	@$(PYTHON) -c 'import sys; sys.exit("fxpress needs Python 3.11 or newer; make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "making .venv: a few minutes, once"
	$(PYTHON) -m venv --clear .venv
	$(INSTALL) "$(TORCH)"
	@touch $@

.venv/run.stamp: .venv/torch.stamp pyproject.toml
	$(INSTALL) --editable .
	@touch $@

.venv/dev.stamp: .venv/run.stamp
	$(INSTALL) --editable ".[dev]"
	@touch $@
