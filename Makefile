# Quorate's tasks for people. `make help` lists them; the logic is in scripts/ and crates/xtask.
#
# Every cargo call builds the whole workspace with one profile, so that the dependencies, RocksDB
# above all, are compiled once and shared by all of them.

TARGET  := $(or $(CARGO_TARGET_DIR),target)
QUORATE := $(TARGET)/release/quorate
XTASK   := $(TARGET)/release/xtask

# Where `make up` keeps its cluster.
DATA ?= data
# What `make sim` runs.
SEEDS ?= 200
FROM ?= 1
# How long `make soak` runs.
MINUTES ?= 3
# How many power losses `make test-faults` makes.
ROUNDS ?= 8

.DEFAULT_GOAL := help
.PHONY: help setup build demo demo-selftest up soak sim test test-store cluster-test test-faults faults-setup check-wire descriptors bench-api bench-compaction fmt lint clean-data

help: ## this list
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## check for what a build needs, and install what is missing
	@scripts/setup.sh

build: setup ## compile everything
	cargo build --release --workspace

demo: build ## see rows live their whole life while leader and data node are killed
	@$(QUORATE) demo

demo-selftest: build ## prove that the demo notices wrong rows, lost objects and orphans
	@$(QUORATE) demo --selftest

up: build ## run three replicas and two data nodes here, until Ctrl-C
	@$(QUORATE) dev --restart --data-dir $(DATA)

soak: build ## use a cluster at random and kill its processes: MINUTES=3 SEED=… S3=1
	@$(QUORATE) soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(S3),--s3)

sim: build ## simulate whole clusters from seeds: SEEDS=200 FROM=1, or SEED=7 with its trace
	@$(TARGET)/release/quorate-sim $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --from $(FROM))

test: build ## formatting, lints, layers, wire tables, all tests, documentation
	@scripts/test.sh $(XTASK)

test-store: setup ## the store's tests alone: openraft's suite, models, crashes, damage, its example and docs
	@scripts/test-store.sh

cluster-test: build ## try what cluster/ ships: units, TLS, rolling restart, replacing a node
	@scripts/cluster-test.sh $(QUORATE)

test-faults: faults-setup build ## power loss, failing fsync, full disks, damaged files; as root: ROUNDS=8 SEED=… ONLY=power-loss
	@scripts/test-faults.sh $(TARGET) --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

faults-setup:
	@scripts/test-faults.sh --setup

check-wire: build ## compare the proto files with Milvus's releases
	@scripts/check-wire.sh $(XTASK)

descriptors: build ## write the protocol's descriptor set to OUT=file
	@test -n "$(OUT)" || { echo "error: say where to: make descriptors OUT=file" >&2; exit 2; }
	@$(XTASK) descriptors "$(OUT)"

bench-api: build ## measure calls a second and their latency against three replicas
	@$(QUORATE) bench api

bench-compaction: build ## measure a merge against reading and writing the same files
	@$(QUORATE) bench compaction

fmt: ## format the code
	cargo fmt --all

lint: setup ## clippy, every warning an error
	cargo clippy --release --workspace --all-targets -- -D warnings

clean-data: ## delete the cluster of make up
	rm -rf "$(DATA)"
