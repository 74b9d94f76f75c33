# Each target installs what it needs the first time, says so, and starts within seconds after that.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
BROWSER := .venv/.browser
AZURITE := .venv/.azurite

.PHONY: help demo demo-databricks test lint bench-gateway bench-scoring bench-local-model bench-responsible faults install clean

help:
	@echo "make demo   the whole loop on this machine: real model, drift, fine-tune, gates, canary, undo"
	@echo "make demo-databricks  the steps into a workspace against stand-ins on this machine, each request printed"
	@echo "make test   every check that a change must pass"
	@echo "make lint   the quick part of it: style, types, import contracts"
	@echo "make bench-gateway   what the gateway costs beside nginx and its peers; PEERS=nginx,litellm chooses"
	@echo "make bench-scoring   what scoring rows costs beside mlflow models serve, on the same scikit-learn model"
	@echo "make bench-local-model  tokens per second of the small model through the gateway, beside llama.cpp's own server"
	@echo "make bench-responsible   error rates of the gate, mitigation frontiers, guard cards, the audit chain, keys of subjects; DATA=folder of public data"
	@echo "make faults          faults injected into its processes under load, and the books afterwards"
	@echo "make clean  remove the environment and the demo"

demo: $(STAMP)
	@$(BIN)/trimtab demo demo

demo-databricks: $(STAMP)
	@$(BIN)/python examples/databricks/walk.py

test: lint $(BROWSER) $(AZURITE)
	@$(BIN)/trimtab setup
	@$(BIN)/python tests/side_by_side.py

lint: $(STAMP)
	@$(BIN)/ruff check src tests benchmarks
	@$(BIN)/ruff format --check src tests benchmarks
	@$(BIN)/lint-imports
	@$(BIN)/pyright

# The yardstick is Debian's nginx, where we may install it. Peers are installed beside the benchmark when asked for.
bench-gateway: $(STAMP)
	@command -v cc >/dev/null || { echo "the mock upstream and the load generator need a C compiler"; exit 1; }
	@if ! command -v nginx >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  echo "installing Debian's nginx-light (only the first time)"; \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends nginx-light; } >/dev/null || true; fi
	@$(BIN)/python benchmarks/gateway $(if $(PEERS),--peers $(PEERS))

bench-scoring: $(STAMP)
	@command -v cc >/dev/null || { echo "the load generator needs a C compiler"; exit 1; }
	@$(BIN)/python benchmarks/scoring

bench-local-model: $(STAMP)
	@command -v cc >/dev/null || { echo "the programs beside it need a C compiler"; exit 1; }
	@$(BIN)/python benchmarks/gateway --local-model

bench-responsible: $(STAMP)
	@$(BIN)/python benchmarks/responsible $(if $(DATA),--data $(DATA))

faults: $(STAMP)
	@PYTHONPATH=tests $(BIN)/python tests/supervisor/faults.py

install: $(STAMP)

$(STAMP): pyproject.toml requirements.lock hatch_build.py $(wildcard src/trimtab/gateway/fast_path/*.[ch] src/trimtab/registry/*.c src/trimtab/native/*.h) src/trimtab/native/build.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Trimtab needs Python 3.11 or newer: make PYTHON=python3.12 …"; exit 1; }
	@echo "installing into .venv (about 2 GB on disk, one to three minutes; only the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "no venv module: on Debian, apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --editable .
	@touch $@

# A browser for the one browser test: Debian's, where we may install it. Without it that test says so and is skipped.
$(BROWSER): $(STAMP)
	@if command -v chromium >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  echo "installing Debian's chromium for the browser test (only the first time)"; \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core; } >/dev/null || echo "chromium could not be installed: the browser test will be skipped"; \
	else echo "no chromium here and no right to install it: the browser test will be skipped"; fi
	@touch $@

# Azure's own storage emulator, for the tests of a lake in Azure. Without it they say so and are skipped.
$(AZURITE): $(STAMP)
	@if command -v npm >/dev/null; then \
	  echo "installing Azurite for the tests of Azure storage (about a minute; only the first time)"; \
	  npm install --silent --no-audit --no-fund --prefix .venv/azurite azurite@3.37.0 >/dev/null 2>&1 || echo "Azurite could not be installed: the tests of Azure storage will be skipped"; \
	else echo "no npm here: the tests of Azure storage will be skipped"; fi
	@touch $@

clean:
	rm -rf .venv demo
