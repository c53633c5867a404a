# Two commands do everything: `make run` and `make test`. Each makes the virtual environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY := PASSIVE

.PHONY: run test lint search durability coverage postgres clean

run: $(VENV)/installed
	$(BIN)/tunesmith run recipes/quickstart.yaml

test: $(VENV)/installed-dev lint
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist worksteal

lint: $(VENV)/installed-dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

search: $(VENV)/installed-dev
	HF_HUB_OFFLINE=1 HYPOTHESIS_PROFILE=search $(BIN)/pytest -n 2 --dist worksteal -m hypothesis

durability: $(VENV)/installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist worksteal -m slow tests/durability

coverage: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/evaluation/coverage_table.py

postgres: $(VENV)/installed-dev
	tests/postgres/run.sh $(BIN)/pytest

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
