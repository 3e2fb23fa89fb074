# Two commands for everybody: `make run` and `make test`. Each sets up what it needs by itself.

PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell \
  $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

# pytest's rewritten tests are kept for the next time.
unexport PYTHONDONTWRITEBYTECODE

# `make` targets set up what they use by themselves.
.PHONY: run quick test test-all lint type docs bench clean

run: $(VENV)/run.stamp  ## train and evaluate experiment 3
	$(BIN)/tlkit run examples/covidx/exp3.toml
	@echo
	@echo "To use tlkit from here: . $(BIN)/activate"

quick: $(VENV)/test.stamp  ## the library's tests that need no Keras, in half a minute
	$(BIN)/python -m pytest -n 2 -m "not slow" -p tests.quick \
	  --ignore=tests/house --ignore=tests/battery

test: lint type docs  ## everything CI asks for, under 10 minutes
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: lint type docs  ## the slow laws too, under 60 minutes
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/test.stamp
	$(BIN)/mypy

docs: $(VENV)/docs.stamp  ## the site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/run.stamp  ## ratios to a hand-written Keras script: make bench DATA=folder-with-train-and-val
	$(BIN)/python bench/bench.py $(DATA)

clean:
	rm -rf $(VENV) site dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@echo "Setting up .venv: TensorFlow and what it needs, 2.7 GB on disk. It takes some minutes."
	@test -n "$(PYTHON)" || { echo "tlkit needs Python 3.11 or newer: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[offline]'
	@touch $@

$(VENV)/test.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[offline,lite,hub,onnx,dev]'
	@touch $@

$(VENV)/docs.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[offline,docs]'
	@touch $@
