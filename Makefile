# Every target makes what it needs; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test lint types layers pytest bench soak fuzz
.DEFAULT_GOAL := help

help:
	@echo "make install   .venv with the locked packages and the tilenode program"
	@echo "make demo      the whole way on two nodes on this machine"
	@echo "make test      lint, types, layer contracts and all tests"
	@echo "make bench     one table of figures, each beside its reference and limit"
	@echo "make soak      10,000 kills and 2,000 failing disk calls on the store"
	@echo "make fuzz      every fuzzer with 20,000 inputs a test"

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tilenode needs Python 3.11 or newer (Debian: apt install python3 python3-venv)"; exit 1; }
	@echo "installing the locked packages into $(VENV): a minute or two"
	@$(PYTHON) -m venv $(VENV) || { echo "no venv module (Debian: apt install python3-venv)"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@# libp2p needs trio-typing at run time; the outdated stubs it brings would hide trio's own types.
	@rm -rf $(VENV)/lib/python3*/site-packages/trio-stubs
	@touch $(STAMP)

demo: install
	@$(BIN)/tilenode demo

test: install lint types layers pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

layers: install
	$(BIN)/lint-imports --no-cache

# Two at a time: most tests of real nodes wait for one another's machines. One file stays on one worker.
pytest: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

bench: install
	$(BIN)/python -m tests.bench

soak: install
	$(BIN)/python -m tests.faults

fuzz: install
	$(BIN)/python -m pytest tests/fuzz --hypothesis-profile=long --timeout=0
