# Everything runs from a virtual environment that the first command makes.
PYTHON ?= python3
BIN := .venv/bin
# Each file's tests in one process, which makes what they share once; in order, so that the long files come early.
SUITE := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder \
  --ignore tests/embedding/test_clients.py --ignore tests/embedding/test_guides.py --ignore tests/install

.PHONY: demo test test-all test-embed test-install lint docs docs-serve dist bench bench-c bench-int8 bench-streams bench-method bench-training bench-cuda gpu-pack reference reference-report clean

demo: .venv/.installed  ## train, export, validate, measure and use two models
	$(BIN)/lstm-deploy demo

test: .venv/.installed  ## the whole suite, one process for each core
	$(SUITE)

test-all: .venv/.installed  ## the same, with five times as many examples of each property; before a release
	$(SUITE) --hypothesis-profile deep

test-embed: .venv/.installed  ## clients in every language, and their guides, built and run: six minutes on two cores; says what is missing
	@! command -v npm > /dev/null || \
	  ONNXRUNTIME_NODE_INSTALL=skip npm install --prefix tests/embedding/node --no-package-lock --no-audit --no-fund --silent
	@! command -v apt-get > /dev/null || [ -d tests/embedding/node/onnxruntime ] || \
	  tests/embedding/node/onnxruntime_root.sh tests/embedding/node/onnxruntime tests/embedding/node/node_modules || \
	  echo "ONNX Runtime for C++ could not be put together here; its tests are left out unless ONNXRUNTIME_ROOT is set"
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/embedding/test_clients.py tests/embedding/test_guides.py

test-install: dist  ## what 'make dist' built, with each extra in an environment of its own; ten minutes, needs a package index
	$(BIN)/pytest --timeout 1200 tests/install

lint: .venv/.installed  ## style, layering and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

dist: .venv/.installed  ## wheel and source archive into dist/, checked; CONTRIBUTING.md has the steps of a release
	$(BIN)/pip install -q -c constraints.txt build twine
	rm -rf dist build
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
docs: .venv/.docs  ## the documentation as a site, into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

docs-serve: .venv/.docs  ## the same, shown while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

bench: .venv/.installed  ## latency of the usual sizes and systems on the CPU, into benchmarks/results; half an hour
	$(BIN)/python benchmarks/sizes.py --provider cpu

bench-c: .venv/.installed  ## what a step takes as C beside onnxruntime, into benchmarks/results and docs/c.md
	$(BIN)/python benchmarks/c.py

bench-int8: .venv/.installed  ## what int8 saves and costs, into benchmarks/results
	$(BIN)/python benchmarks/int8.py

bench-streams: .venv/.installed  ## what steps, pipes and rollouts cost beside onnxruntime's and PyTorch's own calls
	$(BIN)/python benchmarks/streams.py
	$(BIN)/python benchmarks/rollouts.py

bench-method: .venv/.installed  ## whether the benchmark can be believed
	$(BIN)/python benchmarks/method.py

bench-training: .venv/.installed  ## what training by the recipes costs and reaches, into benchmarks/results; half an hour
	$(BIN)/python benchmarks/training.py

bench-cuda: .venv/.installed  ## parity and latency on an NVIDIA GPU; goes on where it was broken off
	$(BIN)/pip install -q -c constraints.txt "onnxruntime-gpu[cuda,cudnn]"
	$(BIN)/python benchmarks/sizes.py --provider cuda --rounds 10 --resume

gpu-pack: .venv/.installed  ## what a GPU machine without a registry lacks, into .gpu; benchmarks/on_gpu.sh runs there
	$(BIN)/python benchmarks/gpu_pack.py .gpu

reference: .venv/.installed  ## make the bundle in exported/ anew
	$(BIN)/python exported/make_reference.py

reference-report: .venv/.installed  ## write the report of that bundle anew, after a change of how reports are written
	$(BIN)/python exported/make_reference.py --report

clean:
	rm -rf .venv exported/demo site

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "lstm-deploy needs Python 3.11 or later; try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv/.docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@
