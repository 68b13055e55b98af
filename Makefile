# Two commands matter: `make demo` runs the main job, `make test` runs everything CI runs.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

# `make harden-demo` runs the hardening loop on MNIST.
.PHONY: demo harden-demo test lint types imports clean

demo: .venv/.demo
	$(BIN)/advreg demo

harden-demo: .venv/.dev
	$(BIN)/advreg harden demo

test: .venv/.dev lint types imports
	$(BIN)/pytest

lint: .venv/.dev
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench

types: .venv/.dev
	$(BIN)/mypy

imports: .venv/.dev
	$(BIN)/lint-imports

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	touch .venv/.demo $@

clean:
	rm -rf .venv dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
