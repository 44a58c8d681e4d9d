# make demo   a whole run on the embedded demo set: search, retrain, evaluate, export, report
# make test   linter, type checker and the fast tests;   make test-slow   kills, browser, whole commands
# make bench  what a search step takes on this machine, written to benchmarks/README.md
# make docs   the tables in docs/ and README.md that are written from the code
# Each target sets up .venv by itself when it is missing or older than the lists of packages.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO ?= runs/demo

.PHONY: setup demo test test-slow lint bench docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "segnas needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[onnx,tensorboard,ray,postgres,dev]'
	touch $(STAMP)

demo: $(STAMP)
	rm -rf $(DEMO)
	env -u OMP_NUM_THREADS $(BIN)/segnas run auto-deeplab --data demo --preset quick --out $(DEMO)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m slow --durations 10

bench: $(STAMP)
	env -u OMP_NUM_THREADS $(BIN)/python benchmarks/supernet_step.py --write

docs: $(STAMP)
	$(BIN)/python docs/make_tables.py

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
