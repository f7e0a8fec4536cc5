# `make` alone prints the targets.
PYTHON ?= python3
BIN := .venv/bin
NEED_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "agentpipe needs Python 3.11 or later: make PYTHON=python3.12 ..."; exit 1; }
LAUNCH = $(NEED_PYTHON); $(PYTHON) -m brokers.launch
# The main job keeps its stores apart from yours, so that it can start afresh each time.
DEMO := .agentpipe/run
DEMO_STORES := --broker sqlite:///$(DEMO)/broker.db --sink sqlite:///$(DEMO)/results.db

SERVERS := redis rabbitmq kafka

TORCH := .venv-torch
# MCP-Universe's package pins what we use: it has a Python of its own.
THEIRS := .venv-mcpuniverse

.DEFAULT_GOAL := help
.PHONY: help run test test-torch test-mcpuniverse mcpuniverse check format docs bench clean $(SERVERS) $(SERVERS:%=drop%)

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(NEED_PYTHON)
	$(PYTHON) -m venv .venv

.venv/installed: $(BIN)/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

run: .venv/installed ## run 200 tasks on four agents in two processes, offline
	@rm -rf $(DEMO)
	@$(BIN)/agentpipe send almanac -c configs/almanac.yaml $(DEMO_STORES) \
		--file configs/almanac-tasks.jsonl
	@$(BIN)/agentpipe work -c configs/almanac.yaml $(DEMO_STORES) --processes 2 --burst
	@$(BIN)/agentpipe report $(DEMO_STORES)
	@echo "Try next:"
	@echo "  $(BIN)/agentpipe tail --from beginning --limit 5 --sink sqlite:///$(DEMO)/results.db"
	@echo "  $(BIN)/agentpipe status --broker sqlite:///$(DEMO)/broker.db"

test: .venv/installed-dev ## run every test
	$(BIN)/python -m pytest -n 4 --dist worksteal

# An environment of its own: torch is large, and nothing else needs it.
$(TORCH)/installed: setup.cfg pyproject.toml
	@$(NEED_PYTHON)
	$(PYTHON) -m venv $(TORCH)
	$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[torch]" "pytest>=8.3" torchdata
	@touch $@

test-torch: $(TORCH)/installed ## test the PyTorch dataset, in an environment of its own
	@# torch warns of things that are its own.
	$(TORCH)/bin/python -m pytest tests/torch --override-ini filterwarnings=default

check: .venv/installed-dev ## format, lint, types, import direction, unit tests: all that a change must pass
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit

format: .venv/installed-dev ## format the code, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/installed ## draw the pictures of the documents anew, from a run
	$(BIN)/python -m docs.pictures

.venv/installed-bench: .venv/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	@touch $@

$(THEIRS)/installed:
	@$(NEED_PYTHON)
	$(PYTHON) -m venv $(THEIRS)
	$(THEIRS)/bin/python -m pip install --quiet --disable-pip-version-check mcpuniverse==1.1.3
	@touch $@

mcpuniverse: $(THEIRS)/installed ## make the Python that runs MCP-Universe's own agents

test-mcpuniverse: .venv/installed-dev $(THEIRS)/installed ## test with MCP-Universe's own code: it reads our results, we run its agents
	$(THEIRS)/bin/python -m pip install --quiet --disable-pip-version-check "pytest>=8.3"
	$(THEIRS)/bin/python -m pytest tests/peer tests/mcpuniverse --override-ini filterwarnings=default
	$(BIN)/python -m pytest tests/side_by_side

bench: .venv/installed-bench $(THEIRS)/installed ## measure, each figure beside something of the same run
	$(BIN)/python -m bench.bench

redis: ## start Redis in the background, here; the same for the next two
	@$(LAUNCH) start redis

rabbitmq: ## start RabbitMQ
	@$(LAUNCH) start rabbitmq

kafka: ## start Kafka
	@$(LAUNCH) start kafka

dropredis: ## stop Redis and remove its data; the same for the next two
	@$(LAUNCH) drop redis

droprabbitmq: ## stop RabbitMQ and remove its data
	@$(LAUNCH) drop rabbitmq

dropkafka: ## stop Kafka and remove its data
	@$(LAUNCH) drop kafka

clean: ## remove the environments and the main job's stores
	rm -rf .venv $(THEIRS) $(TORCH) $(DEMO)
