# Every target works as the only command on a fresh machine: it sets up .venv first, with pinned versions.
# Another interpreter: make PYTHON=python3.12 test
# More arguments for pip, such as an index with other builds of torch: make PIP_ARGS='...' test

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_ARGS ?=
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-input --retries 8 $(PIP_ARGS)
TORCH := $(shell grep '^torch==' constraints.txt)
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11 python3.14)
# The versions that torch has wheels for; ensurepip is what a system Python without its venv package lacks.
SUITABLE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))

# Two cores are what the time limits and the recorded figures are meant for; more threads would change the last bits.
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help install demo test check lint types contracts oldest langchain format slow soak nap-mini clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## set up .venv with the pinned versions

$(STAMP): pyproject.toml integrations/langchain/pyproject.toml constraints.txt
	@$(BIN)/python -c 'import pip; $(SUITABLE)' 2>/dev/null || { \
		found=; for python in $(CANDIDATES); do \
			if "$$python" -c '$(SUITABLE)' 2>/dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "none of: $(CANDIDATES) is a Python 3.11 to 3.14 with venv and ensurepip;" \
				"install one (Debian, Ubuntu: python3-venv) or name it: make PYTHON=/path/to/python3" >&2; \
			exit 1; \
		fi; \
		echo "creating $(VENV) with $$found" >&2; \
		"$$found" -m venv --clear $(VENV); \
	}
	@echo "installing into $(VENV): $(TORCH), then agentsleep and its tools; the first time takes minutes" >&2
	@$(PIP) -c constraints.txt '$(TORCH)'
	@$(PIP) -c constraints.txt -e '.[dev]' -e 'integrations/langchain[test]'
	@touch $@

demo: $(STAMP) ## an agent that reads, sleeps, forgets its window and still answers (offline, 3 minutes)
	@$(BIN)/agentsleep demo

test: lint types contracts ## what CI runs: lint, types, floors, the tests not marked slow, those of models on both transformers
	@$(BIN)/python -m pytest -n 2 --dist worksteal --durations=10
	@$(MAKE) --no-print-directory oldest
	@$(MAKE) --no-print-directory langchain

check: lint types contracts ## before a commit: as test, but the last failures first, and stop at one
	@$(BIN)/python -m pytest -q --exitfirst --failed-first

lint: $(STAMP) ## ruff: rules and format
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .

types: $(STAMP) ## mypy, strict
	@$(BIN)/mypy

contracts: $(STAMP) ## import-linter: the floors of the package
	@$(BIN)/lint-imports --no-logo

# The cache of transformers is opened up in one file; this proves it at the other end of the supported range.
OLDEST := $(VENV)/oldest
OLDEST_TRANSFORMERS := transformers==$(shell sed -n 's/.*"transformers>=\([0-9.]*\),.*/\1/p' pyproject.toml).0

oldest: $(STAMP) ## the tests of models and back ends with the oldest transformers that is supported
	@test -d $(OLDEST) || $(PIP) --no-deps --target $(OLDEST) '$(OLDEST_TRANSFORMERS)'
	@PYTHONPATH=$(OLDEST) $(BIN)/python -c "import transformers; print('transformers', transformers.__version__)"
	@PYTHONPATH=$(OLDEST) $(BIN)/python -m pytest -q -n 2 --dist worksteal tests/models tests/backends tests/conformance

langchain: $(STAMP) ## the tests of integrations/langchain
	@cd integrations/langchain && $(CURDIR)/$(BIN)/python -m pytest -q tests/integration_tests # in one process: the last test looks at what the others did
	@cd integrations/langchain && $(CURDIR)/$(BIN)/python -m pytest -q -n 2 --dist worksteal --ignore=tests/integration_tests

format: $(STAMP) ## let ruff mend what it can, and format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

slow: $(STAMP) ## the tests marked slow
	@$(BIN)/python -m pytest -m slow --timeout=3600 --durations=10
	@cd integrations/langchain && $(CURDIR)/$(BIN)/python -m pytest -m slow --timeout=3600 --durations=10

soak: $(STAMP) ## kill writers in the middle of what they do: 1,000 times on SQLite, 200 on PostgreSQL (ten minutes)
	@$(BIN)/python -m tests.soak
	@$(BIN)/python -m tests.soak --backend postgresql --kills 200

# A run that was cut off goes on where it was. The wheel carries what lies in the assets folder.
NAP_RUN := runs/nap-mini
NAP_ASSETS := agentsleep/assets/nap-mini

nap-mini: $(STAMP) ## train the shipped model (80 minutes of one core), or go on with it, and put it into the package
	@OMP_NUM_THREADS=1 $(BIN)/agentsleep train rota --out $(NAP_RUN) $(if $(wildcard $(NAP_RUN)/checkpoint.pt),--resume)
	@mkdir -p $(NAP_ASSETS)
	@cp $(NAP_RUN)/model/* $(NAP_RUN)/record.json $(NAP_RUN)/curves.png $(NAP_ASSETS)/

clean: ## remove caches and build products; .venv and runs/ stay
	@rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -path ./$(VENV) -prune -o -path ./.git -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean ## clean, and remove .venv too
	@rm -rf $(VENV)
