# Every task is one line that calls a named tool in an environment of pinned packages;
# `make help` lists them. A variable of the environment reaches the tool, for instance
# CONTEXT=prod REGISTRY=registry.example/team STORAGE_CLASS=nfs make quickstart
PYTHON ?= python3
BOOTSTRAP := $(PYTHON) local_cluster/bootstrap.py
export CONTEXT REGISTRY STORAGE_CLASS

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-unit test-mutations test-faults cluster cluster-down generate verify bench

help: ## list the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

quickstart: ## fine-tune a small model on a local cluster and prove that it learned [CONTEXT= REGISTRY= STORAGE_CLASS= ARGS=]
	@$(BOOTSTRAP) --root cluster -- python -m quickstart $(ARGS)

test: ## all tests, end to end on two clusters of their own [ARGS=-k...]
	@$(BOOTSTRAP) --root tests -- python -m pytest tests -n 3 --dist loadfile --no-loadscope-reorder --install-chromium $(ARGS)

test-unit: ## the tests that need neither a cluster nor a gang of ranks
	@$(BOOTSTRAP) tests -- python -m pytest tests -m "not e2e and not gpu and not gang" --ignore tests/parity -n auto --dist worksteal -o faulthandler_timeout=420 $(ARGS)

test-mutations: ## remove one behaviour after the other; the named test must notice
	@$(BOOTSTRAP) tests -- python tests/mutations/run.py $(ARGS)

test-faults: ## the whole fault matrix and its record; goes on where it stopped [ROW=operator-kills]
	@$(BOOTSTRAP) --root tests -- python -m pytest $(if $(ROW),tests/faults,tests) -m faults --whole $(addprefix --row=,$(ROW)) $(ARGS)

cluster: ## start the local cluster [ARGS="--nodes 3 --gpus 2"]
	@$(BOOTSTRAP) --root cluster -- python -m local_cluster up $(ARGS)

cluster-down: ## stop the local cluster and delete its state
	@$(BOOTSTRAP) --root cluster -- python -m local_cluster down $(ARGS)

generate: ## write the CRD, the chart's copy, the modules that the trainer shares, docs/failures.md
	@$(BOOTSTRAP) operator -- python -m finetune_operator.api.crd

verify: ## linters, types, import contracts, drift of generated files
	@$(BOOTSTRAP) tests -- sh -ec 'ruff check; ruff format --check; mypy; lint-imports; python -m finetune_operator.api.crd --check'

bench: ## measure, and write benchmarks/results.md [ARGS="control-plane --jobs 500"]
	@$(BOOTSTRAP) --root tests -- python -m benchmarks $(ARGS)
