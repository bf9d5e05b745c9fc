# `make help` lists the targets. They need Rust, a C compiler and bash; what else they need they fetch themselves.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# The directory cargo builds into.
BRIGADE := $(or $(CARGO_TARGET_DIR),target)/debug/brigade

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: build ## see it work: RabbitMQ, an embedded S3 server and a worker, all started and stopped again
	@scripts/rabbitmq run -- $(BRIGADE) demo

.PHONY: dev
dev: build ## RabbitMQ, S3, SQLite, worker and status page until Ctrl-C
	@scripts/rabbitmq run -- $(BRIGADE) dev

.PHONY: test
test: ## everything that is checked: format, lints, dependencies, all tests against a private RabbitMQ, PostgreSQL, Prometheus
	@echo "Checking the format…"
	cargo fmt --check
	echo "Checking the dependencies…"
	scripts/dependency-check
	scripts/cargo-deny
	scripts/compose-check
	scripts/chart check
	echo "Linting (about 4 minutes the first time)…"
	cargo clippy --locked --all-targets --features failpoints -- -D warnings
	cargo clippy --locked --test drill --test stores --features failpoints -- -D warnings
	scripts/prometheus install >/dev/null
	echo "Testing (builds for about 5 minutes the first time)…"
	scripts/postgres run -- scripts/rabbitmq run -- cargo test --locked --features failpoints -- --test-threads 6
	scripts/chart settings $(BRIGADE)

# RABBITMQ=4.0 or 4.3 for a newer broker (a chroot; root), ARGS for the drills: ARGS='--jobs 100000 --only s3-outage'.
.PHONY: drill
drill: ## break what breaks in the field, and account for every job: RABBITMQ=4.0|4.3, ARGS='--jobs N --only NAME'
	@if [[ -n "$(RABBITMQ)" ]]; then
	  RABBITMQ_ROOT=$$(scripts/rabbitmq-chroot "$(RABBITMQ)")
	  export RABBITMQ_ROOT
	fi
	scripts/postgres run -- scripts/rabbitmq run -- cargo test --locked --test drill -- $(ARGS)

# With the tests' features, so that nothing is built twice.
.PHONY: sim
sim: ## look for faults of the engine by machine: SEEDS=N, or SEED=N for the story of one
	@BRIGADE_SIM_SEEDS=$(or $(SEEDS),$(if $(SEED),1,1000))
	BRIGADE_SIM_SEED=$(or $(SEED),0)
	BRIGADE_SIM_THREADS=$$(nproc)
	export BRIGADE_SIM_SEEDS BRIGADE_SIM_SEED BRIGADE_SIM_THREADS
	cargo test --locked --features failpoints --lib sim::tests::no_seed_breaks_a_rule -- --nocapture

# ARGS='--dry-run' prints the tables only.
.PHONY: stores
stores: ## try every operation and option on S3 stores from PyPI, npm and Debian, and write docs/reference/s3-stores.md
	@scripts/s3-stores $(ARGS)

.PHONY: bench-upload
bench-upload: ## large uploads beside boto3 and a bare SDK loop, and through kill -9: ARGS='--size 10240 --python VENV/bin/python'
	@scripts/rabbitmq run -- cargo bench --locked --bench upload -- $(ARGS)

.PHONY: check
check: ## the quick loop while you write: format, lints, unit tests; no broker
	@cargo fmt --check
	cargo clippy --locked --lib --bins --tests --features failpoints -- -D warnings
	cargo test --locked --features failpoints --lib

.PHONY: fmt
fmt: ## format the code
	@cargo fmt

.PHONY: clean
clean: ## remove everything that was built, downloaded or logged here
	@cargo clean

.PHONY: build
build:
	@if [[ -x $(BRIGADE) ]]; then echo "Building brigade…"; else echo "Building brigade (about 4 minutes the first time)…"; fi
	cargo build --locked
