# The commands of this project. Each does its own set-up.

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/chappe/target

.PHONY: help run test test-clients test-closed test-interop sim demo crash load pair lint fmt deps complement-image complement docker-image

help:
	@echo "make run               build the server and start it on its trial configuration"
	@echo "make test              run every test"
	@echo "make test-clients      run clients of others against the server: matrix-sdk, those from PyPI and npm, and a web client"
	@echo "make test-closed       a closed federation at the level of packets; needs root, or says that it was skipped"
	@echo "make test-interop      this server beside a real Synapse, which it installs; needs Python 3 and its package index"
	@echo "make sim               servers over a bad network, by SEEDS (how many) and FIRST, or SEED (one)"
	@echo "make demo              two servers, two people, one encrypted room between them"
	@echo "make crash             kill a server CYCLES times under load; VARIANT=kill, torn-tail, failed-flush, flipped-bytes, power-cut or full-disk (both root)"
	@echo "make load              measure a homeserver: ARGS='--server NAME=URL,PROCESS,DATA_DIR'; ARGS=--help says the rest"
	@echo "make pair              two servers that federate, for the load program and for trials by hand"
	@echo "make lint              check format and lints"
	@echo "make fmt               format the code"
	@echo "make docker-image      build the production image"
	@echo "make complement-image  build the image that the Complement suite tests"
	@echo "make complement        run the suite; COMPLEMENT_DIR names its checkout"

deps:
	@.ci/deps.sh

run: deps
	cargo run --release --locked -p chappe-server -- serve

# How many seeds of the simulation: as many as take two minutes of two cores.
SEEDS ?= 2000

# The whole workspace in both steps, so that every dependency is built once. The tests start the binary.
test: deps
	cargo build --workspace --all-targets --locked
	SIM_SEEDS=$(SEEDS) cargo test --workspace --locked

test-clients: deps
	cargo build --workspace --all-targets --locked
	cargo test --workspace --locked --test suite client::
	tests/clients/run.sh

test-closed: deps
	cargo build --locked -p chappe-server
	tests/closed/run.sh

sim: deps
	SIM_SEEDS=$(SEEDS) SIM_FIRST=$(FIRST) SIM_SEED=$(SEED) \
		cargo test --locked -p chappe-rooms --lib simulation -- --nocapture

demo: deps
	cargo build --workspace --all-targets --locked
	"$(CARGO_TARGET_DIR)/debug/demo"

test-interop: deps
	cargo build --workspace --all-targets --locked
	"$(CARGO_TARGET_DIR)/debug/interop" --environment "$(CARGO_TARGET_DIR)/synapse" $(if $(VERSIONS),--versions $(VERSIONS))

crash: deps
	cargo build --workspace --all-targets --locked
	"$(CARGO_TARGET_DIR)/debug/crash" --cycles $(or $(CYCLES),200) --seed $(or $(SEED),1) --variant $(or $(VARIANT),kill)

# Optimised, so that it takes as little as it can of the processor that it shares with the server.
load: deps
	cargo build --release --locked -p chappe-load
	"$(CARGO_TARGET_DIR)/release/load" $(ARGS)

pair: deps
	cargo build --workspace --all-targets --locked
	"$(CARGO_TARGET_DIR)/debug/pair"

lint: deps
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@if command -v cargo-deny >/dev/null 2>&1; then cargo deny check; else echo "cargo-deny is not installed: licences and advisories were not checked"; fi

fmt:
	cargo fmt --all

docker-image:
	docker build -f docker/Dockerfile -t chappe .

complement-image: deps
	complement/build.sh

complement: complement-image
	complement/run.sh
