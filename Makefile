# Two commands do everything: `make run` and `make test`. Each makes the virtual environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY := PASSIVE

.PHONY: run test lint machines search durability bases coverage postgres clean

run: $(VENV)/installed
	$(BIN)/tunesmith run recipes/quickstart.yaml

test: $(VENV)/installed-dev lint
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist worksteal

lint: $(VENV)/installed-dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

# Kernels of other processors, by the switches that torch and oneDNN offer; one and two threads; one core for all.
NUMBERS := tests/oracles tests/methods tests/models tests/objectives tests/training tests/evaluation tests/serving tests/golden
NUMERIC := env HF_HUB_OFFLINE=1 $(BIN)/pytest -n 0 $(NUMBERS)
machines: $(VENV)/installed-dev
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 OMP_NUM_THREADS=1 $(NUMERIC)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX MKL_ENABLE_INSTRUCTIONS=AVX OMP_NUM_THREADS=2 $(NUMERIC)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OMP_NUM_THREADS=2 $(NUMERIC)
	OMP_NUM_THREADS=2 taskset -c 0 $(NUMERIC)

search: $(VENV)/installed-dev
	HF_HUB_OFFLINE=1 HYPOTHESIS_PROFILE=search $(BIN)/pytest -n 2 --dist worksteal -m hypothesis

durability: $(VENV)/installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist worksteal -m slow tests/durability

bases: $(VENV)/installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python tests/bases_matrix.py

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
