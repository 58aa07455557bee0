# A few verbs; `make help` lists them. Everything a verb needs is installed into .venv and target/ by `make setup`.

SHELL := /bin/bash
PYTHON ?= python3
ARGS ?=
NAME ?= ingest
BIN := .venv/bin
RUST := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name Cargo.toml -o -name '*.pem' 2>/dev/null)
export VIRTUAL_ENV := $(CURDIR)/.venv

.PHONY: help setup demo test bench load dev lint fmt check-rust clean

help:  ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: .venv/built-dev  ## install into .venv and build the extension; does nothing when nothing changed

demo: .venv/built-release  ## the main job on real data: events in, a reconciled broadcast out (ARGS=--keep leaves it running)
	@$(BIN)/sendora demo $(ARGS)

test: setup lint  ## linters, types, cargo test, pytest against the embedded servers
	cargo test --workspace --locked --quiet
	$(BIN)/pytest $(ARGS)

bench: .venv/built-release $(if $(filter audience memory,$(NAME)),.venv/peers)  ## a figure beside its peer: make bench NAME=ingest (results in loadtests/results/)
	@$(BIN)/python -m loadtests.bench $(NAME) $(ARGS)

load: .venv/built-release  ## Locust against a fresh embedded cluster: throughput, percentiles, errors, event accounting
	@$(BIN)/python -m loadtests.load $(ARGS)

dev: .venv/built-release  ## the whole cluster in the foreground, readable logs
	@$(BIN)/sendora dev $(ARGS)

lint: setup  ## ruff, mypy --strict, import-linter, rustfmt, clippy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked --quiet -- -D warnings

fmt:  ## format Python and Rust
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format --quiet .
	cargo fmt --all

clean:  ## remove what setup made
	rm -rf .venv target python/sendora/_core*.so

# The stamps: one for the packages, one for each build profile of the extension (building one retires the other).
.venv/installed: requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"  # maturin installs dependency groups
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

# Libraries that some figures stand beside.
.venv/peers: .venv/installed pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --group bench
	@touch $@

.venv/built-%: .venv/installed pyproject.toml $(RUST)
	$(BIN)/maturin develop --quiet --locked $(if $(filter release,$*),--release) --extras embedded
	@rm -f .venv/built-dev .venv/built-release
	@touch $@
