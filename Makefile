# Every task is one command, and works on a fresh checkout: what it needs is installed first, into $(VENV).
PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 8000
MODEL ?= cifar10-resnet20-relu
IMAGES ?= data/test
export HOST PORT

PIP_INSTALL = bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: serve train test test-all test-service check format bench bench-detection soak docs clean

serve: $(VENV)/.service  ## start the service with the models that ship
	$(VENV)/bin/python -m service

train: $(VENV)/.dev  ## train a small network on digits, export it, publish it
	$(VENV)/bin/python -m training train --run runs/digits --resume
	$(VENV)/bin/python -m training publish runs/digits --name digits

test: test-all test-service  ## every test, then those of the service again where PyTorch is not installed

test-all: $(VENV)/.dev
	$(VENV)/bin/python -m pytest

test-service: $(VENV)-service/.test
	$(VENV)-service/bin/python -m pytest tests/models tests/service

check: $(VENV)/.dev  ## linter, formatter, types, boundaries between packages
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

bench: $(VENV)/.dev  ## paired, interleaved measurements; prints a table
	$(VENV)/bin/python -m benchmarks

bench-detection: $(VENV)/.dev  ## faults put into the traffic of MODEL with test images of the folder IMAGES: what is found
	OPENBLAS_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.detection $(IMAGES) --model $(MODEL)

soak: $(VENV)/.dev  ## 100,000 requests of every kind while versions change: none lost, and memory within a bound
	OPENBLAS_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.soak

docs: $(VENV)/.dev  ## docs/activations.md, docs/networks.md and their plots, from the catalogues and the figures of make bench
	$(VENV)/bin/python -m docs

clean:
	rm -rf $(VENV) $(VENV)-service build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# The service's environment, without PyTorch.
$(VENV)/.service: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/$(PIP_INSTALL) --editable '.[dev]'
	touch $@ $(VENV)/.service

$(VENV)-service/.test: pyproject.toml
	$(PYTHON) -m venv $(VENV)-service
	$(VENV)-service/$(PIP_INSTALL) --editable '.[test]'
	touch $@
