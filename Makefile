# `make` alone prints the targets.
PYTHON ?= python3
BIN := .venv/bin
NEED_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "agentpipe needs Python 3.11 or later: make PYTHON=python3.12 ..."; exit 1; }
LAUNCH = $(NEED_PYTHON); $(PYTHON) -m brokers.launch
# Each process of the tests would compile them anew.
unexport PYTHONDONTWRITEBYTECODE
# Of two at once the second waits, where the system has flock.
FLOCK := $(shell command -v flock > /dev/null && echo flock)
ALONE = $(if $(FLOCK),$(FLOCK) $(1))
# The demo's own stores: each run starts with empty ones, and leaves yours alone.
DEMO := .agentpipe/run
DEMO_STORES := --broker sqlite:///$(DEMO)/broker.db --sink sqlite:///$(DEMO)/results.db

SERVERS := redis rabbitmq kafka

TORCH := .venv-torch
# TRL brings torch and transformers.
TRL := .venv-trl
# vLLM for a CPU, torch and transformers: 7 GB.
RL := .venv-rl
# inspect_ai has 80 dependencies, and datasets nearly as many.
READERS := .venv-readers
# Packages of trainers, without what they import.
TRAINERS := .venv-trainers
# The package verifiers, whose environment client prime-rl uses.
PRIME := .venv-prime-rl
# The package mcpuniverse pins older versions of our dependencies, so it has its own environment.
THEIRS := .venv-mcpuniverse
RIVALS := .venv-rivals
ARQ := .venv-arq
# What makes the lock and the bill of materials, and what the lock installs.
TOOLS := .venv-tools
PINNED := .venv-pinned
# With LOCKED=1, a new .venv gets the versions of requirements-dev.lock, and only what has its hashes.
LOCKED ?=

.DEFAULT_GOAL := help
.PHONY: help run demo check lint unit test integration test-all long test-torch test-trl test-rl test-inspect \
	test-trainers test-prime-rl test-mcpuniverse mcpuniverse format docs bench compare lock sbom clean $(SERVERS) $(SERVERS:%=drop%)

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(NEED_PYTHON)
	$(call ALONE,Makefile) $(PYTHON) -m venv .venv

.venv/installed: $(BIN)/python setup.cfg pyproject.toml
	$(if $(LOCKED),$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock)
	$(call ALONE,Makefile) $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .$(if $(LOCKED), --no-deps --no-build-isolation)
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$(if $(LOCKED),--require-hashes -r requirements-dev.lock,--editable ".[dev]")
	@touch $@

run: .venv/installed ## run 200 tasks on four agents in two processes, offline
	@$(call ALONE,setup.cfg) $(MAKE) --no-print-directory demo

demo:
	@rm -rf $(DEMO)
	@$(BIN)/agentpipe send almanac -c configs/almanac.yaml $(DEMO_STORES) \
		--file configs/almanac-tasks.jsonl
	@$(BIN)/agentpipe work -c configs/almanac.yaml $(DEMO_STORES) --processes 2 --burst
	@$(BIN)/agentpipe report $(DEMO_STORES)
	@echo "Try next:"
	@echo "  $(BIN)/agentpipe tail --from beginning --limit 5 --sink sqlite:///$(DEMO)/results.db"
	@echo "  $(BIN)/agentpipe status --broker sqlite:///$(DEMO)/broker.db"

PYTEST = $(BIN)/python -m pytest
# More processes than cores: tests wait half of their time, those with servers and workers most of it.
PARALLEL_UNIT := -n 4 --dist worksteal
PARALLEL := -n 8 --dist worksteal
# Those of the long tier start many processes each.
PARALLEL_LONG := -n 3 --dist worksteal
# Several at once may starve a lease or a server for seconds. What failed runs once more, alone:
# a fault fails twice. Both runs are printed.
AGAIN = || { [ $$? -eq 1 ] && $(PYTEST) $(1) --last-failed --last-failed-no-failures none; }
# What a new environment has not compiled, two processes compile here; else each of the many would.
COLLECT = $(PYTEST) --collect-only --quiet -p no:cacheprovider > /dev/null
UNIT := tests/unit tests/conformance -m "not server and not long"
INTEGRATION := tests/conformance tests/integration -m "(server or process) and not long"

.venv/compiled: .venv/installed-dev
	@$(COLLECT) tests/unit & $(COLLECT) tests/conformance tests/integration & wait
	@touch $@

# Three tiers, and each test is in one: `make check test test-all` runs each once.
check: lint unit ## format, lint, types, unit tests, conformance on SQLite: for every change

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

unit: .venv/compiled
	$(PYTEST) $(UNIT) $(PARALLEL_UNIT) $(call AGAIN,$(UNIT))

test: unit integration ## the tests: unit, conformance, and integration with all brokers and sinks

integration: .venv/compiled
	$(PYTEST) $(INTEGRATION) $(PARALLEL) $(call AGAIN,$(INTEGRATION))

test-all: test long test-torch test-inspect test-trainers test-prime-rl test-mcpuniverse ## also the long kill, outage and race tests, torch, inspect, trainers, prime-rl, mcpuniverse

long: .venv/compiled
	$(PYTEST) -m long $(PARALLEL_LONG) $(call AGAIN,-m long)

# torch is large and nothing else needs it, so it has its own environment.
$(TORCH)/installed: setup.cfg pyproject.toml
	@$(NEED_PYTHON)
	$(PYTHON) -m venv $(TORCH)
	$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[torch]" "pytest>=8.3" torchdata \
		datasets==5.2.0
	@touch $@

test-torch: $(TORCH)/installed ## PyTorch's and Hugging Face's datasets and loaders, in their own environment
	@# torch raises warnings of its own.
	$(TORCH)/bin/python -m pytest tests/torch --override-ini filterwarnings=default

# Not in test-all: 5.6 GB, and some minutes.
$(TRL)/installed: setup.cfg pyproject.toml
	@$(NEED_PYTHON)
	$(PYTHON) -m venv $(TRL)
	$(TRL)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[llm,trl]" "pytest>=8.3" requests
	@touch $@

test-trl: $(TRL)/installed ## TRL's trainer on rollouts of agents, in its own environment; not in test-all
	$(TRL)/bin/python -m pytest tests/trl --override-ini filterwarnings=default

$(RL)/installed: setup.cfg tests/rl/install.sh tests/rl/requirements.py tests/rl/requirements.txt tests/rl/weights.py
	@$(NEED_PYTHON)
	tests/rl/install.sh $(PYTHON) $(RL)

# Not in test-all: 7 GB, and some minutes.
test-rl: $(RL)/installed ## a real small model, served by vLLM on this CPU: token ids, log-probabilities, a trainer's loop; not in test-all
	@# torch and transformers raise warnings of their own.
	$(RL)/bin/python -m pytest tests/rl --capture=no --override-ini filterwarnings=default

$(READERS)/installed: setup.cfg Makefile
	@$(NEED_PYTHON)
	$(PYTHON) -m venv $(READERS)
	$(READERS)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[pandas,parquet]" \
		"pytest>=8.3" datasets==5.2.0 inspect_ai==0.3.285
	@touch $@

test-inspect: $(READERS)/installed ## inspect_ai, pandas, pyarrow and datasets read our exports, in their own environment
	$(READERS)/bin/python -m pytest tests/inspect --override-ini filterwarnings=default

$(TRAINERS)/installed: setup.cfg Makefile
	@$(NEED_PYTHON)
	$(PYTHON) -m venv $(TRAINERS)
	$(TRAINERS)/bin/python -m pip install --quiet --disable-pip-version-check --editable . "pytest>=8.3" pydantic numpy
	@# Their files are read: without Ray, vLLM and CUDA. Some of them install a package named tests.
	$(TRAINERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target $(TRAINERS)/packages verl==0.9.1 skyrl==0.3.0 areal==1.0.4
	@touch $@

test-trainers: $(TRAINERS)/installed ## the recipes against verl, SkyRL and AReaL, in their own environment
	$(TRAINERS)/bin/python -m pytest tests/trainers/test_trainers.py --override-ini filterwarnings=default

$(PRIME)/installed: setup.cfg Makefile
	@$(NEED_PYTHON)
	$(PYTHON) -m venv $(PRIME)
	$(PRIME)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[llm,prime-rl]" "pytest>=8.3" \
		verifiers==0.4.0
	@touch $@

test-prime-rl: $(PRIME)/installed ## prime-rl's environment client on our server, in its own environment
	$(PRIME)/bin/python -m pytest tests/trainers/test_env_server.py --override-ini filterwarnings=default

format: .venv/installed-dev ## format the code and apply the automatic fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/installed-dev ## draw the pictures of the documents again, from a run
	$(BIN)/python -m docs.pictures

.venv/installed-bench: .venv/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	@touch $@

$(THEIRS)/installed:
	@$(NEED_PYTHON)
	$(PYTHON) -m venv $(THEIRS)
	$(THEIRS)/bin/python -m pip install --quiet --disable-pip-version-check mcpuniverse==1.1.3
	@touch $@

# What others' tasks run on beside ours; arq wants an older client of Redis than the rest.
$(RIVALS)/installed: Makefile
	@$(NEED_PYTHON)
	$(PYTHON) -m venv $(RIVALS)
	$(RIVALS)/bin/python -m pip install --quiet --disable-pip-version-check \
		"celery[redis]==5.7.0" "saq[redis]==0.26.4" streaq==7.2.0
	@touch $@

$(ARQ)/installed: Makefile
	@$(NEED_PYTHON)
	$(PYTHON) -m venv $(ARQ)
	$(ARQ)/bin/python -m pip install --quiet --disable-pip-version-check arq==0.28.0
	@touch $@

mcpuniverse: $(THEIRS)/installed ## make the environment that runs MCP-Universe's agents

test-mcpuniverse: .venv/installed-dev $(THEIRS)/installed ## MCP-Universe's code reads our results, and we run its agents
	$(THEIRS)/bin/python -m pip install --quiet --disable-pip-version-check "pytest>=8.3"
	$(THEIRS)/bin/python -m pytest tests/peer tests/mcpuniverse --override-ini filterwarnings=default
	$(BIN)/python -m pytest tests/side_by_side

bench: .venv/installed-bench $(THEIRS)/installed $(RIVALS)/installed $(ARQ)/installed ## measure beside others, and write docs/benchmarks.md
	$(BIN)/python -m bench.bench

compare: .venv/installed-dev ## measure beside another checkout in the same run: make compare BASE=../before
	$(BIN)/python -m bench.compare $(BASE)

redis: ## start Redis in the background, in .agentpipe
	@$(LAUNCH) start redis

rabbitmq: ## start RabbitMQ
	@$(LAUNCH) start rabbitmq

kafka: ## start Kafka
	@$(LAUNCH) start kafka

dropredis: ## stop Redis and remove its data
	@$(LAUNCH) drop redis

droprabbitmq: ## stop RabbitMQ and remove its data
	@$(LAUNCH) drop rabbitmq

dropkafka: ## stop Kafka and remove its data
	@$(LAUNCH) drop kafka

$(TOOLS)/installed: Makefile
	@$(NEED_PYTHON)
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1" "cyclonedx-bom>=7,<8"
	@touch $@

# For each Python and system at once. No name of an index enters the files.
COMPILE = $(TOOLS)/bin/uv pip compile setup.cfg --quiet --upgrade --generate-hashes --universal \
	--python-version 3.11 --no-annotate --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock"

lock: $(TOOLS)/installed ## pin all dependencies with their hashes: requirements.lock, requirements-dev.lock
	$(COMPILE) --extra llm --output-file requirements.lock
	$(COMPILE) --extra llm --extra dev --output-file requirements-dev.lock

$(PINNED)/installed: requirements.lock setup.cfg
	@$(NEED_PYTHON)
	$(PYTHON) -m venv --clear $(PINNED)
	$(PINNED)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(PINNED)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps .
	@touch $@

sbom: $(PINNED)/installed $(TOOLS)/installed ## write what the lock installs, with licences, to dist/sbom.json (CycloneDX)
	@mkdir -p dist
	$(TOOLS)/bin/cyclonedx-py environment --output-reproducible --output-format JSON \
		--output-file dist/sbom.json $(PINNED)/bin/python

clean: ## remove the environments and the demo's stores
	rm -rf .venv $(THEIRS) $(TORCH) $(TRL) $(RL) $(READERS) $(TRAINERS) $(PRIME) $(TOOLS) $(PINNED) $(DEMO)
