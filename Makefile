# `make help` lists the targets. Everything but `setup` runs what `setup` made; `setup` does nothing twice.
SHELL := /bin/bash
python := .venv/bin/python
c_files = $(wildcard bpf/*.[ch] bpf/hooks/*.h bpf/lib/*.h bpf/entry/*.h droplet_functions/*.c bench/programs/*.[ch] bench/programs/*/*.[ch] bench/programs/*/*/*.h)
pytest := $(python) -m pytest
shared := $(pytest) -n $(or $(JOBS),auto)
checks := lint types generated

# Labs, also of `make demo`, find here what was compiled before, by the hash of all that went into it.
export DROPLET_LAB_CACHE ?= $(CURDIR)/build/programs
# Tests start hundreds of agents: without bytecode, each of them would compile its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test suites quality lint types generated unit states bpf fuzz netns system kernels nightly bench format generate lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' Makefile

setup: ## Install what is needed: system packages, a locked virtualenv (asks nothing, does nothing twice)
	@tools/setup.sh

demo: setup ## Show the whole thing on this machine: four droplets, two tenants (KEEP=1 leaves it up)
	@.venv/bin/droplet-lab demo

test: setup ## Set up, check and test everything (needs root; JOBS=2 processes share the tests)
	@$(MAKE) --no-print-directory --jobs=4 $(checks) suites

# Beside the checks: mypy without a cache keeps one CPU busy for a minute, and the others would idle.
suites: setup
	@$(shared) tests/unit tests/states tests/bpf tests/netns tests/system

quality: setup ## Check style, types and generated files
	@$(MAKE) --no-print-directory --jobs=3 --output-sync $(checks)

lint: setup ## Check style: ruff, clang-format, codespell
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/clang-format --dry-run --Werror $(c_files)
	@.venv/bin/codespell

types: setup ## Check types: mypy, strict
	@.venv/bin/mypy
	@.venv/bin/mypy tests/states/kernel_port_types.py
	@.venv/bin/mypy --scripts-are-modules examples/functions/*.py

generated: setup ## Check that generated files are fresh: drop reasons, AsyncAPI, permissions
	@$(python) tools/generate_outcomes.py --check
	@$(python) -m protocol.asyncapi | diff -u docs/asyncapi.yaml - || { echo "docs/asyncapi.yaml is stale: make generate"; exit 1; }
	@$(python) -m protocol.permission_list | diff -u docs/permissions.json - || { echo "docs/permissions.json is stale: make generate"; exit 1; }

unit: setup ## Test the pure parts (no root)
	@$(pytest) tests/unit

states: setup ## Test every order of changes to the configuration (no root)
	@$(shared) tests/states

bpf: setup ## Test the compiled programs packet by packet (root)
	@$(pytest) tests/bpf

fuzz: setup ## Run FRAMES random frames for each hook and variant (root; FRAMES=1000000 SEED=1 HOOK=both VARIANT=all)
	@$(python) tests/bpf/fuzz_run.py --frames $(or $(FRAMES),1000000) --seed $(or $(SEED),1) --hook $(or $(HOOK),both) \
		--variant $(or $(VARIANT),all)

netns: setup ## Test the kernel's edge in network namespaces (root)
	@$(shared) tests/netns

system: setup ## Test agents, controller and nats-server together (root)
	@$(shared) tests/system

kernels: setup ## Test on Debian's own kernel under emulation: Geneve, VLANs, bonds (KERNELS="PYTEST ARGUMENTS")
	@$(python) -m tests.kernels $(KERNELS)

nightly: ## Test what is too long for the gate, on a clean checkout: kernels, and fuzz (root; FRAMES=200000 SEED=)
	@FRAMES="$(FRAMES)" SEED="$(SEED)" .ci/nightly

bench: setup ## Measure beside kernel VXLAN and bare programs (root; BENCH="--quick --json FILE")
	@$(python) -m bench $(BENCH)

format: setup ## Write the style that `lint` checks
	@.venv/bin/ruff check --fix --quiet . || true
	@.venv/bin/ruff format .
	@.venv/bin/clang-format -i $(c_files)

generate: setup ## Write the generated files
	@$(python) tools/generate_outcomes.py
	@$(python) -m protocol.asyncapi > docs/asyncapi.yaml
	@$(python) -m protocol.permission_list > docs/permissions.json

lock: setup ## Write the lock files anew from pyproject.toml
	@$(python) -m venv .venv/lock && .venv/lock/bin/pip install --quiet uv
	@.venv/lock/bin/uv pip compile -q pyproject.toml --extra lab --extra dev --generate-hashes --no-emit-index-url \
		--no-header --python-version 3.11 -o requirements.lock
	@.venv/lock/bin/uv pip compile -q pyproject.toml --generate-hashes --no-emit-index-url --no-header \
		--python-version 3.11 -c requirements.lock -o requirements-agent.lock

clean: ## Remove what was built here
	@rm -rf .venv build tests/javascript/node_modules *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
