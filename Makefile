# `make demo`, `make check` and `make test` build .venv first.
PYTHON ?= python3
BIN := .venv/bin
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
# Where a CPU-only machine looks for the CPU build of torch when its own package index has none.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
HAS_NVIDIA := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo yes)

# Tests run in as many processes as this, each of which keeps its own fixtures; two cores take two.
TEST_PROCESSES ?= 2
PYTEST = PATH="$(CURDIR)/$(BIN):$$PATH" OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal
# What needs neither a browser nor several machines or GPUs.
ANYWHERE := not browser and not distributed

.PHONY: demo check test-fast test test-browser venv clean help
help:
	@echo "make demo       phantom radiographs -> GANs -> synthetic shards -> classifiers -> report/index.html"
	@echo "make check      lint, format, types, import contracts: under a minute"
	@echo "make test-fast  tests that start no job: under two minutes on two cores"
	@echo "make test       check, and all tests"
	@echo "make test-browser  the report's page in Chromium, which is installed where root may"

venv: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@echo "[setup] making .venv (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
ifeq ($(HAS_NVIDIA),yes)
	@echo "[setup] 1/2 torch $(TORCH), with CUDA"
	@$(BIN)/python -m pip install -qq -c constraints.txt torch==$(TORCH)
else
	@echo "[setup] 1/2 torch $(TORCH), CPU build"
	@$(BIN)/python -m pip install -qq -c constraints.txt "torch==$(TORCH)+cpu" 2>/dev/null \
	  || $(BIN)/python -m pip install -qq -c constraints.txt --extra-index-url $(TORCH_CPU_INDEX) "torch==$(TORCH)+cpu"
endif
	@echo "[setup] 2/2 cxrdist and everything else"
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[deepspeed,dicom,s3,networks,explain,onnx,wandb-report,dev]'
	@$(BIN)/python -c "import cxrdist, torch, accelerate, webdataset, wandb"
	@touch .venv/ready

demo: .venv/ready
	@$(BIN)/cxrdist study configs/study/demo.yaml

# Under a minute, once the caches of mypy and import-linter are there.
check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/lint-imports

test-fast: .venv/ready
	$(PYTEST) -m "not slow and $(ANYWHERE)"

test: check
	$(PYTEST) -m "$(ANYWHERE)"

# Debian's chromium. Where it is neither there nor can be installed, the tests are skipped and say why.
test-browser: .venv/ready
	@command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null 2>&1 || \
	  if [ "$$(id -u)" != 0 ]; then echo "[test-browser] no Chromium, and only root can install it"; \
	  elif ! command -v apt-get >/dev/null 2>&1; then echo "[test-browser] no Chromium, and no apt-get to install it"; \
	  else echo "[test-browser] installing Debian's chromium"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } \
	      >/dev/null || echo "[test-browser] apt-get could not install chromium"; fi
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -rs -m browser

clean:
	rm -rf .venv runs report build *.egg-info .*_cache .hypothesis
