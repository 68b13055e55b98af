# Two commands matter: `make demo` runs the main job, `make test` runs everything CI runs.
PYTHON ?= python3
BIN := .venv/bin
DIST ?= dist
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

# `make harden-demo` runs the hardening loop on MNIST.
.PHONY: demo harden-demo test lint types imports docs axe release clean

demo: .venv/.demo
	$(BIN)/advreg demo

harden-demo: .venv/.dev
	$(BIN)/advreg harden demo

test: .venv/.dev lint types imports docs
	$(BIN)/pytest -n auto --dist worksteal

lint: .venv/.dev
	$(BIN)/ruff check src tests bench tools docs
	$(BIN)/ruff format --check src tests bench tools docs

types: .venv/.dev
	$(BIN)/mypy

imports: .venv/.dev
	$(BIN)/lint-imports

docs: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# axe-core from npm, Chromium from Debian's package chromium: the accessibility of the report, light and dark.
axe: .venv/.dev
	npm install --silent --no-save --no-audit --no-fund --prefix .axe axe-core
	ADVREG_AXE=.axe/node_modules/axe-core/axe.min.js $(BIN)/pytest tests/report/test_browser.py

# Wheel and sdist, requirements.lock with the hash of every file that pip would install, and sbom.cdx.json (CycloneDX).
# `make release DIST=/elsewhere` writes them outside the repository.
release: .venv/.dev
	$(PIP) hatchling
	rm -f $(DIST)/advreg-*.whl $(DIST)/advreg-*.tar.gz $(DIST)/requirements.lock $(DIST)/sbom.cdx.json
	$(BIN)/hatchling build -d $(DIST)
	$(BIN)/python tools/release.py $(DIST)/advreg-*.whl --out $(DIST)

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	touch .venv/.demo $@

clean:
	rm -rf .venv .axe dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
