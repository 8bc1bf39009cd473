# make demo   set up .venv if needed, run the whole chain on the bundled clip, show what came out
# make test   set up .venv if needed, run the test suite
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo test quick slow lint docs bench lock clean

demo: $(STAMP)
	$(BIN)/tracekit demo -d demo-output --force

# The two suites side by side, each on a core of its own: threads that share cores wait for each other more than they work.
test: $(STAMP)
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target quick slow

quick slow: export OMP_NUM_THREADS ?= 1

quick: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python -m tracekit.documentation docs

bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py

# The exact versions that the tests ran with; `make lock` writes them anew from the environment that is there.
lock:
	$(BIN)/pip freeze --exclude-editable --exclude tracekit > constraints.txt

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist src/*.egg-info demo-output
