# `make demo` and `make test` do all their own set-up.
VENV ?= .venv
export VENV
BIN := $(VENV)/bin

.PHONY: demo test lint soak bench evidence env clean
demo: env
	$(BIN)/dail demo

test: lint
	$(BIN)/python -m pytest -m "not soak and not gpu"

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

# long tests: faults again and again, large samples
soak: env
	$(BIN)/python -m pytest -m soak --timeout 3600

# every number in tests/bench/RESULTS.md has a script there
bench: env
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.rollout
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.train

# the recipe of the demo model, from nothing, with its accuracy per role
evidence: env
	$(BIN)/python deploy/demo/make_model.py --out runs/demo-model

env: $(VENV)/.ready
$(VENV)/.ready: pyproject.toml deploy/setup.sh
	deploy/setup.sh

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
