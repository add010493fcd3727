# Each target makes what it needs: `make demo` and `make test` both work on a fresh clone.
# PYTHON may name an interpreter; otherwise the first one found that is new enough is taken.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c "$(NEW_ENOUGH)" >/dev/null 2>&1 && echo $$p && break; done)

.PHONY: help venv demo test lint format clean

help:
	@echo "make demo    install, fetch SmolLM2-135M-Instruct, quantize it to 4 bits, ask it a question"
	@echo "make test    install with the test tools and run the tests (ARGS=... is handed to pytest)"
	@echo "make lint    ruff, mypy, and the check that rooms import only from rooms below them"
	@echo "make format  let ruff rewrite what it can"
	@echo "make venv    only make $(VENV)"
	@echo "make clean   remove $(VENV) and caches"

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "halfbyte needs Python 3.11 or newer; set PYTHON=/path/to/it" >&2; exit 1; }
	@$(PYTHON) -c "$(NEW_ENOUGH)" || { echo "$(PYTHON) is older than 3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	touch $@

# Two stamps, so that the demo does not wait for the test tools.
$(VENV)/.run: pyproject.toml $(VENV)/.made
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.made
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.run

venv: $(VENV)/.run

demo: $(VENV)/.run
	$(BIN)/halfbyte demo $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
