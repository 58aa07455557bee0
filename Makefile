# A few verbs; `make help` lists them. Everything a verb needs is installed into .venv and target/ by `make setup`.

SHELL := /bin/bash
PYTHON ?= python3
ARGS ?=
NAME ?=
SECONDS ?= 60
CASES ?= 20000
BIN := .venv/bin
RUST := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name Cargo.toml -o -name '*.pem' 2>/dev/null)
export VIRTUAL_ENV := $(CURDIR)/.venv

.PHONY: help setup demo test bench fuzz fuzz-api load dev lint fmt clean

help:  ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: .venv/built-dev  ## install into .venv and build the extension; does nothing when nothing changed

demo: .venv/built-release  ## the main job on real data: events in, a reconciled broadcast out (ARGS=--keep leaves it running)
	@$(BIN)/sendora demo $(ARGS)

test: setup lint  ## linters, types, cargo test, pytest against the embedded servers
	cargo test --workspace --locked --quiet
	$(BIN)/pytest $(ARGS)

bench: .venv/built-release .venv/bench  ## each figure beside its peers: all, or NAME=ingest; QUICK=1: all in ten minutes
	@$(BIN)/python -m loadtests.bench $(NAME) $(ARGS)

fuzz: .cache/cargo-fuzz/bin/cargo-fuzz  ## hostile bytes into a parser until it breaks: make fuzz NAME=check SECONDS=600 (targets: rust/fuzz/seeds/)
	@test -d "rust/fuzz/seeds/$(NAME)" -a -n "$(NAME)" || { echo "make fuzz NAME=one of: $$(ls rust/fuzz/seeds | xargs)"; exit 2; }
	@mkdir -p rust/fuzz/corpus/$(NAME)
	$< run --fuzz-dir rust/fuzz --sanitizer none $(NAME) rust/fuzz/corpus/$(NAME) rust/fuzz/seeds/$(NAME) -- \
	  -max_total_time=$(SECONDS) -max_len=4096 -timeout=10 -dict=rust/fuzz/json.dict -print_final_stats=1 $(ARGS)

fuzz-api: setup  ## requests of every kind against the OpenAPI document: make fuzz-api CASES=20000
	CASES=$(CASES) $(BIN)/pytest -q tests/contract/test_fuzz.py $(ARGS)

load: .venv/built-release  ## Locust against a fresh embedded cluster: throughput, percentiles, errors, event accounting
	@$(BIN)/python -m loadtests.load $(ARGS)

dev: .venv/built-release  ## the whole cluster in the foreground, readable logs
	@$(BIN)/sendora dev $(ARGS)

lint: setup  ## ruff, mypy --strict, import-linter, rustfmt, clippy, lock files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
	cargo metadata --locked --format-version 1 --manifest-path rust/fuzz/Cargo.toml > /dev/null

fmt:  ## format Python and Rust
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format --quiet .
	cargo fmt --all

clean:  ## remove what setup made
	rm -rf .venv target rust/fuzz/target python/sendora/_core*.so

# A stable toolchain is enough: without a sanitizer, libFuzzer needs only the coverage counters of the compiler.
.cache/cargo-fuzz/bin/cargo-fuzz:
	cargo install cargo-fuzz --version 0.13.2 --locked --quiet --root .cache/cargo-fuzz

# The stamps: one for the packages, one for each build profile of the extension (building one retires the other).
.venv/installed: requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"  # maturin installs dependency groups
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

.venv/bench: .venv/installed requirements-bench.lock
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-bench.lock
	@touch $@

.venv/built-%: .venv/installed pyproject.toml $(RUST)
	$(BIN)/maturin develop --quiet --locked $(if $(filter release,$*),--release) --extras embedded
	@rm -f .venv/built-dev .venv/built-release
	@touch $@
