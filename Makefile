# `make` alone says what there is. Nothing here touches anything outside this folder.

PYTHON ?= python3
PIP_ARGS ?=
VENV ?= .venv
ARGS ?=
SEED ?=
EXAMPLES ?= 1000
JOBS ?= 2

PY := $(VENV)/bin/python
BIN := $(VENV)/bin

# A stamp holds a digest of what the environment was made from: Python, this folder, pyproject and the constraints.
# pip runs again only when that changes. What `make test` installs satisfies `make demo` too.
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast check fuzz bench format clean install-run install-dev $(VENV)/ready
.SUFFIXES:
MAKEFLAGS += --no-print-directory --no-builtin-rules
# Hundreds of tests start Python: where each compiles everything again, a command starts a tenth to a half later.
unexport PYTHONDONTWRITEBYTECODE

help: ## say what there is
	@echo "Vitruvius: one small file becomes a picture, a bill, a checked model and a training run."
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'
	@echo
	@echo "  PYTHON=python3.12  which Python makes $(VENV) (3.11 or newer)"
	@echo "  PIP_ARGS=...       passed to pip: choose a torch build as https://pytorch.org/get-started shows"
	@echo "  ARGS=...           passed to pytest: make test-fast ARGS='-k patterns'"
	@echo "  JOBS=4             how many processes run the tests, each with one thread (2; 0: this one)"

demo: install-run ## from one small file to generated text, in about five minutes
	@$(BIN)/vitruvius demo --out demo

test: install-dev ## every test that this machine can run; skips are listed with their reason
	@$(PY) -m pytest -n $(JOBS) --dist worksteal -m "not gpu" $(ARGS)

test-fast: install-dev ## a case of every test but the slow, browser and server ones; under three minutes
	@$(PY) -m pytest -n $(JOBS) --dist worksteal --cases 1 -m "not (gpu or slow or browser or server)" $(ARGS)

check: install-dev ## lints, formatting, types and the floors of the house
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

format: install-dev ## rewrite the code as the lints want it
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

fuzz: install-dev ## property tests with many random examples; prints the seed (SEED=... repeats it, EXAMPLES=1000)
	@VITRUVIUS_HYPOTHESIS=fuzz VITRUVIUS_FUZZ_EXAMPLES=$(EXAMPLES) \
		$(PY) -m pytest -m "not (gpu or slow or browser or server)" $(if $(SEED),--hypothesis-seed=$(SEED)) $(ARGS)

bench: install-dev ## measure against peers; prints ratios
	@for script in $(filter-out %_worker.py %_peer.py,$(wildcard bench/*.py)); do echo "== $$script"; $(PY) "$$script" $(ARGS) || exit 1; done

clean: ## remove the environment, caches and what the demo wrote
	rm -rf $(VENV) demo build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# ----------------------------------------------------------------------------------------------------------------------
# The environment

DIGEST = { $(PY) -c 'import sys; print(sys.version)'; pwd; cat pyproject.toml constraints.txt; } | cksum

# pip shows its progress to a terminal and keeps quiet in a log.
QUIET = $$([ -t 2 ] || echo --quiet)

define SAY_TORCH
import torch
device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
print(f"torch {torch.__version__} on {device}, {torch.get_num_threads()} threads")
endef
export SAY_TORCH

# An environment that is there is used as it is, unless the user names another version of Python.
$(VENV)/ready:
	@if $(PY) -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		if [ "$(origin PYTHON)" = file ] || [ "$$($(PYTHON) --version 2>&1)" = "$$($(PY) --version 2>&1)" ]; then exit 0; fi; \
	fi; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: Vitruvius needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1 | head -n 1)" >&2; \
		echo "  fix: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }; \
	echo "making $(VENV) with $$($(PYTHON) --version)"; \
	$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 2; }

install-run: $(VENV)/ready
	@digest=$$($(DIGEST)); \
	for stamp in $(RUN_STAMP) $(DEV_STAMP); do [ "$$(cat $$stamp 2>/dev/null)" = "$$digest" ] && exit 0; done; \
	echo "installing vitruvius[run] into $(VENV)"; \
	$(PY) -m pip install $(QUIET) $(PIP_ARGS) -c constraints.txt -e '.[run]' && \
	$(PY) -c "$$SAY_TORCH" && echo "$$digest" > $(RUN_STAMP)

install-dev: $(VENV)/ready
	@digest=$$($(DIGEST)); \
	[ "$$(cat $(DEV_STAMP) 2>/dev/null)" = "$$digest" ] && exit 0; \
	echo "installing vitruvius[run,data,cluster,optim,watch,deepspeed,dev] into $(VENV)"; \
	$(PY) -m pip install $(QUIET) $(PIP_ARGS) -c constraints.txt -e '.[run,data,cluster,optim,watch,deepspeed,dev]' && \
	$(PY) -c "$$SAY_TORCH" && echo "$$digest" > $(DEV_STAMP)
