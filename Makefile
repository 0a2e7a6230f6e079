# Verbs of the project. `make test` is the whole test suite and installs what it needs; the others are its parts and neighbours.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
# Where cargo puts its output; tests find the binary through NARTHEX_BIN.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Where an S3 server is put when the machine has none.
S3 := $(abspath $(TARGET)/s3)
export PATH := $(PATH):$(S3)/bin
export NARTHEX_BIN ?= $(abspath $(TARGET)/release/narthex)

.PHONY: help test peers verify fix build e2e cluster compose differential bench speed gate model crash s3s buckets fuzz

help: ## list the verbs
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /\1\t/' | expand -t 10

# The tests bring the binary with them: built apart from them, with other features of its libraries, all of these would be built twice.
test: peers verify ## everything that must pass: style, unit, format, language and end-to-end tests on real peers, and the gate
	$(CARGO) test --release --locked --workspace --no-fail-fast
	GATE_MISSING_IS=0 ./loadtest/gate

peers: ## install the real programs that tests talk to (Debian: Prometheus, promtool, node_exporter, VictoriaMetrics; Python: moto)
	./loadtest/install-peers $(S3)

verify: ## formatting and lints, changes nothing (in the profile of the tests, which share its build scripts)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets --locked -- -D warnings

fix: ## format and apply what lints can mend
	$(CARGO) fmt --all
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged

build: ## the binary, as users build it
	$(CARGO) build --release --locked -p node

e2e: peers build ## only the tests that start the binary
	$(CARGO) test --release -p loadtest -- --nocapture

cluster: build ## the long forms of the ring's tests: fifty kills, long stops, under full load (about an hour)
	$(CARGO) test --release -p loadtest --test cluster -- --include-ignored --nocapture --test-threads 1

compose: ## both stacks of deploy/compose in a docker daemon, with a receiver killed under load (root; builds images where no registry is reachable)
	./deploy/compose/try

s3s: ## install s3s-fs, a third S3 server for the tests of buckets; not part of `make test`, since it takes minutes to build
	$(CARGO) install s3s-fs --version 0.14.1 --features binary --locked --root $(S3)

buckets: build ## every kind of bucket at hand, faults, and what starts and queries over large blocks cost (minutes)
	$(CARGO) test --release -p node --test bucket -- --include-ignored --nocapture --test-threads 1

gate: ## instructions per sample in each stage of the hot paths; fails at +2 % over loadtest/gate.txt
	./loadtest/gate

speed: ## what single parts cost: chunks, commit, replay, cut, memory through a cut, many tenants, placement (measurements, not tests)
	$(CARGO) test --release -p storage --test speed -- --ignored --nocapture --test-threads 1
	$(CARGO) test --release -p ingest --lib bench -- --ignored --nocapture --test-threads 1 --skip bench::cut --skip bench::gate
	for shape in a_million_series a_whole_window fifty_minutes; do \
		$(CARGO) test --release -p ingest --lib bench::cut::$$shape -- --ignored --nocapture; done
	$(CARGO) test --release -p receiver --lib placement -- --ignored --nocapture --test-threads 1
	$(CARGO) test --release -p cluster --lib group -- --ignored --nocapture --test-threads 1
	$(CARGO) bench -p receiver

differential: build ## thousands of generated queries to Narthex and to each Prometheus at hand (NARTHEX_PEERS names a folder of newer ones)
	$(CARGO) test --release -p loadtest --test differential -- --ignored --nocapture --test-threads 1

fuzz: ## queries mutilated by the hundred thousand; where cargo-fuzz is, also five minutes with coverage to guide it
	NARTHEX_SEEDS=$${NARTHEX_SEEDS:-40} $(CARGO) test --release -p promql --test anything
	if command -v cargo-fuzz >/dev/null; then cd fuzz && cargo +nightly fuzz run query --sanitizer none -- -max_total_time=300 -max_len=400 -timeout=20; fi

model: ## ten thousand random lives of an ingester against a map (an hour or less)
	NARTHEX_SEEDS=$${NARTHEX_SEEDS:-10000} $(CARGO) test --release -p ingest --test model

crash: ## power losses, kills, faults and flipped bits by the thousand (an hour or less)
	NARTHEX_SEEDS=6 $(CARGO) test --release -p ingest --test crash at_every_step
	NARTHEX_SEEDS=1000 $(CARGO) test --release -p ingest --test crash -- --skip at_every_step --skip flipped_bit
	NARTHEX_SEEDS=10000 $(CARGO) test --release -p ingest --test crash flipped_bit

bench: ## writes BENCHMARKS.md: the binary as it is released beside the peers that are installed, half an hour on a machine that does nothing else
	$(CARGO) build --profile dist --locked -p node
	NARTHEX_BIN=$(abspath $(TARGET)/dist/narthex) $(CARGO) run --release -p loadtest -- compare --suite --markdown BENCHMARKS.md
