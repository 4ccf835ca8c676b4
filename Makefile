# Two commands do everything on a fresh machine with Python 3.11: `make demo` and `make test`.
PYTHON ?= python3.11
BIN := .venv/bin
OUT ?= out

.PHONY: demo test slow lint speedrun clean

demo: .venv/.core  ## one held-out picture into every modality, beside the truth: out/demo/index.html
	$(BIN)/open4m demo --out $(OUT)/demo

test: .venv/.dev  ## the whole suite but the tests marked slow; a thread per worker, since more get into each other's way
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

slow: .venv/.dev  ## the slow tests only
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: .venv/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

speedrun: .venv/.dev  ## render → tokenizers → tokens → pre-train → scores, within 45 minutes on two cores
	$(BIN)/python -m recipes.speedrun --out $(OUT)/speedrun

clean:
	rm -rf .venv build dist *.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.core: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.dev: .venv/.core
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
