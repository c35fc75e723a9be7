# Every target makes its own virtual environment first; only Python >= 3.10 and make are needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint types format check clean

demo: $(INSTALLED)  ## upscale the shipped example alone and with its references, and score it
	$(BIN)/refsr upscale examples/images/flowerpot/LR/flowerpot.png -s 4 -o demo/flowerpot_x4.png --overwrite
	$(BIN)/refsr upscale examples/images/flowerpot/LR/flowerpot.png --ref examples/images/flowerpot/ref -s 4 \
		-o demo/flowerpot_with_refs_x4.png --compare demo/compare.png --overwrite
	$(BIN)/refsr eval --dataset examples/images/flowerpot --lr-dir examples/images/flowerpot/LR -s 4
	@echo "Look at demo/compare.png, demo/flowerpot_x4.png and demo/flowerpot_with_refs_x4.png, made from examples/images/flowerpot/LR/flowerpot.png."

test: $(INSTALLED)  ## the whole test suite
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint types test

clean:
	rm -rf $(VENV) demo build dist

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
