# Every way in. `make` alone lists the targets; CI runs these and nothing else.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
PYTEST := $(BIN)/pytest
# Settings of a platform you run must not reach the tests.
TEST_ENV := env $(foreach name,$(filter AETHER_%,$(.VARIABLES)),-u $(name))

.PHONY: help setup demo up down test check unit contract integration test-escape test-vllm e2e bench bench-gateway bench-sandbox record fmt clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Make .venv from uv.lock (PYTHON=… picks the interpreter)
	@.ci/setup

demo: setup ## Bring the platform up, turn prompts into creations, take it down (KEEP=1 leaves it up)
	@$(BIN)/aether demo $(if $(filter 1,$(KEEP)),--keep)

up: setup ## Bring the platform up and return when it is ready
	@$(BIN)/aether up --detach

down: setup ## Stop everything `make up` started
	@$(BIN)/aether down

test: setup ## Check the code, then run every test
	@.ci/test

check: setup ## Format, lint, types, import contracts
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/mypy

unit: setup ## Logic and house rules: no network, no Ray
	@$(TEST_ENV) $(PYTEST) tests/unit tests/house

contract: setup ## Every port against every backend
	@$(TEST_ENV) $(PYTEST) tests/contract

integration: setup ## Real servers and a local Ray
	@$(TEST_ENV) $(PYTEST) tests/integration

test-escape: setup ## Attacks on sandboxes, on every backend there can be here (ONLY=bubblewrap picks some)
	@.ci/engine >/dev/null || true
	@$(TEST_ENV) $(PYTEST) tests/escape $(if $(ONLY),-k "$(ONLY)")

test-vllm: ## The engine tests against vLLM on the CPU, in an environment of its own (6 GB)
	@.ci/vllm

e2e: setup ## The whole platform, as its users meet it
	@.ci/browser >/dev/null || true
	@$(TEST_ENV) $(PYTEST) tests/e2e

bench-gateway: setup ## Measure the model router beside LiteLLM and Portkey (SOAK=200000 watches its memory)
	@$(TEST_ENV) $(BIN)/python -m tests.bench.gateway $(if $(SOAK),--soak $(SOAK))

bench-sandbox: setup ## Measure sandboxes beside bubblewrap and Docker alone and a Jupyter kernel (CYCLES=5000)
	@$(TEST_ENV) $(BIN)/python -m tests.bench.sandbox $(if $(CYCLES),--cycles $(CYCLES))

bench: setup ## Measure, and print the table
	@$(TEST_ENV) $(BIN)/python -m tests.bench

record: setup ## Record real streams of every vendor whose key is in the environment
	@$(BIN)/python -m tests.record

fmt: setup ## Format the code and mend what the linter can
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

clean: ## Remove what set-up and the tools made; your data stays
	@rm -rf .venv .uv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
