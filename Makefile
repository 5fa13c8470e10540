# make demo              installs, runs the demonstration, prints where the report is
# make demo SIZE=tiny    the same with a from-scratch byte model, under a minute
# make demo SAFE=1      a byte model is taught to refuse, loses it to helpfulness alone, and keeps it under a limit on cost
# make demo SEED=1       another seed, in a run folder of its own
# make bench             thumbs and its peers side by side; QUICK=1: one round, small batches
# make test | make lint    lint also holds the code to its budgets (.ci/house) and commits to their size

SIZE ?= full
SEED ?= 0
PYTHON ?= python3

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# On Linux the ordinary index brings torch with gigabytes of CUDA. Where no NVIDIA GPU answers, torch comes from the index
# of CPU builds, alone and first; pip then leaves it as it is.
GPU := $(findstring GPU,$(shell nvidia-smi -L 2>/dev/null))
CPU_TORCH := $(if $(GPU),,$(filter Linux,$(shell uname -s)))
NAME := $(if $(SAFE),safe,$(if $(filter tiny,$(SIZE)),demo-tiny,demo))
RUN := runs/$(NAME)$(if $(HUMAN),-human)$(if $(filter-out 0,$(SEED)),-seed$(SEED))

# A few pairs make a few batches: smaller ones and smaller steps. The first look at the held-out pairs, after which the
# best weights are kept, comes when every pair was seen.
PAIRS ?= 30
LABELS := $(if $(HUMAN),labels.people.pairs=$(PAIRS) reward_model.batch_size=4 reward_model.epochs=4 \
	reward_model.eval_every=$(shell expr \( $(PAIRS) + 3 \) / 4) reward_model.optim.learning_rate=5e-4)

.PHONY: demo test lint bench

demo: .venv/.ready
	$(BIN)/thumbs run configs/$(NAME).yaml seed=$(SEED) run=$(RUN)$(if $(LABELS), $(LABELS))

# Two workers, so one torch thread each: more would fight over two cores.
test: .venv/.ready .sdks/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

bench: .venv/.ready
	$(BIN)/python benchmarks/compare.py $(if $(QUICK),--quick)
	$(if $(QUICK),,$(BIN)/python benchmarks/growth.py)
	$(BIN)/python benchmarks/page.py

lint: .venv/.ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/pyright -p benchmarks
	$(BIN)/lint-imports
	$(BIN)/python .ci/house
	.ci/commits

.venv/.ready: pyproject.toml constraints.txt hatch_build.py src/thumbs/models/kernel_levels.py src/thumbs/models/kernels.cpp
	$(PYTHON) -c 'import sys; sys.exit("thumbs needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(if $(CPU_TORCH),$(PIP) --no-deps --retries 1 --index-url https://download.pytorch.org/whl/cpu torch)
	$(PIP) -e '.[dev]'
	touch $@

# Environments in which the real SDKs run against our server.
.sdks/.ready: .venv/.ready tests/service/conformance.py $(wildcard tests/service/sdks/*.txt)
	$(BIN)/python tests/service/conformance.py build
	touch $@
