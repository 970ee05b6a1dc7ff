# `make demo` and `make test` do all their own set-up.
VENV ?= .venv
export VENV
BIN := $(VENV)/bin

.PHONY: demo test lint soak bench bench-gpu evidence env clean
demo: env
	$(BIN)/dail demo

# two at a time: what starts engines and Ray, and beside it the rest
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not soak and not gpu"

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	MYPYPATH=$(VENV)/src $(BIN)/mypy

# long tests: faults again and again, large samples
soak: env
	$(BIN)/python -m pytest -m soak --timeout 3600

# every number in tests/bench/RESULTS.md has a script there
bench: env
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.rollout
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.memory
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.scale
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m tests.bench.speculation
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.train
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.loss
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.lora
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.trainers
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.where

# the GPU column, on one card, with made-up weights of the paper's shapes: nothing is downloaded; no command should take
# ten minutes
bench-gpu: env
	for shape in qwen2.5-7b qwen3-8b; do \
		for pairs in 64 256; do \
			$(BIN)/python -m tests.bench.rollout --shape $$shape --pairs $$pairs --tokens 256 --repeats 3 || exit 1; \
		done; \
		$(BIN)/python -m tests.bench.rollout --shape $$shape --pairs 256 --tokens 256 --repeats 1 --ahead && \
		$(BIN)/python -m tests.bench.memory --shape $$shape --tokens 128 && \
		$(BIN)/python -m tests.bench.scale --shape $$shape --tokens 256 && \
		$(BIN)/python -m tests.bench.speculation --shape $$shape --temperature 0 && \
		$(BIN)/python -m tests.bench.lora --shape $$shape --tokens 4096 || exit 1; \
	done
	$(BIN)/python -m tests.bench.loss --tokens 6144 --memory-tokens 6144 --width 3584 --vocabulary 152064 --dtype bfloat16
	$(BIN)/python -m tests.bench.trainers --shape qwen2.5-7b --traces 64 --trace-tokens 1500
	for way in cached live; do \
		$(BIN)/python -m tests.bench.train --shape qwen2.5-7b --traces 417 --trace-tokens 1500 --microbatch-tokens 8192 \
			--references $$way && \
		$(BIN)/python -m tests.bench.train --shape qwen3-8b --traces 669 --trace-tokens 256 --references $$way || exit 1; \
	done
	$(BIN)/python -m tests.bench.train --shape qwen2.5-7b --traces 32 --trace-tokens 1500 --microbatch-tokens 1

# the recipe of the demo model, from nothing, with its accuracy per role
evidence: env
	$(BIN)/python deploy/demo/make_model.py --out runs/demo-model

env: $(VENV)/.ready
$(VENV)/.ready: pyproject.toml deploy/setup.sh
	deploy/setup.sh

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
