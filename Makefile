# `make demo` and `make test` do all their own set-up.
VENV ?= .venv
export VENV
BIN := $(VENV)/bin

.PHONY: demo docs test lint soak bench bench-gpu demo-model evidence env clean
demo: env
	$(BIN)/dail demo

# two files at a time, each whole in one process; in their order, since the long ones stand first
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not soak and not gpu"

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
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.proposals
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.taus
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.memory
	$(BIN)/python -m tests.bench.service
	$(BIN)/python -m tests.bench.shards
	$(BIN)/python -m tests.bench.viewer
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.scale
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m tests.bench.speculation
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.train
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.loss
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.divergences
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.lora
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.trainers
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.where
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.consistency
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.selection
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.world reference_temperature=0.6 --seeds 0 1

# the GPU column, on one card, with made-up weights of the paper's shapes: nothing is downloaded. Goes on where it was
# stopped; the steps are in tests/gpu/plans.py
bench-gpu: env
	@nvidia-smi -L || { echo "error: no NVIDIA GPU found; see tests/gpu/README.md for a machine that is lent" >&2; exit 1; }
	$(BIN)/python tests/gpu/lease.py run --plan full --installed --work runs/bench-gpu

# the documents as a site: runs/site/index.html
docs: env
	$(BIN)/sphinx-build -q -W --keep-going -c deploy/docs . runs/site

# the recipe of the demo model, from nothing, with its accuracy per role
demo-model: env
	$(BIN)/python deploy/demo/make_model.py --out runs/demo-model

# the paper's claims in a world where they can fail: deploy/world/README.md. Goes on where it was stopped
evidence: env
	$(BIN)/python deploy/world/experiment.py --model deploy/world/model --out runs/world/experiment
	$(BIN)/python deploy/world/figures.py runs/world/experiment
	$(BIN)/python deploy/world/publish.py runs/world/experiment

env: $(VENV)/.ready
$(VENV)/.ready: pyproject.toml deploy/setup.sh $(wildcard deploy/constraints/*.txt)
	deploy/setup.sh

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
