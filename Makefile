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

.PHONY: demo check test-fast test test-browser test-distributed test-slurm test-failed install-slurm venv clean help
help:
	@echo "make demo       phantom radiographs -> GANs -> synthetic shards -> classifiers -> report/index.html"
	@echo "make check      lint, format, types, import contracts: under a minute"
	@echo "make test-fast  tests that start no job: under two minutes on two cores"
	@echo "make test       check, and all tests"
	@echo "make test-browser  pages in Chromium, which is installed where root may"
	@echo "make test-distributed  several hosts, Slurm, storage that fails: under 15 minutes on two cores, as root"
	@echo "make test-failed   the tests that failed last, once more, one after the other"
	@echo "make test-slurm    of these, jobs under a Slurm of two nodes, which is installed where root may"

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
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[deepspeed,dicom,s3,gcs,networks,explain,onnx,wandb-report,review,dev]'
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

test-failed: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --last-failed --last-failed-no-failures none

# $(call debian,TEST,PACKAGES): install Debian's packages, unless the shell command TEST finds what they bring. Where they
# can't be installed, the tests that need them are skipped and say why.
define debian
	@{ $(1); } >/dev/null 2>&1 || \
	  if [ "$$(id -u)" != 0 ]; then echo "[$@] only root can install $(2)"; \
	  elif ! command -v apt-get >/dev/null 2>&1; then echo "[$@] no apt-get to install $(2)"; \
	  else echo "[$@] installing Debian's $(2)"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2); } \
	      >/dev/null || echo "[$@] apt-get could not install $(2)"; fi
endef

test-browser: .venv/ready
	$(call debian,command -v chromium || command -v chromium-browser || command -v google-chrome,chromium)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -rs -m browser

install-slurm:
	$(call debian,command -v slurmctld && command -v slurmd && command -v munged,slurm-wlm munge)

test-slurm: .venv/ready install-slurm
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -rs -m slurm

# Several hosts, as network namespaces; Slurm's daemons on them have keys and ports of their own.
test-distributed: .venv/ready install-slurm
	$(call debian,command -v ip && command -v tc,iproute2)
	$(PYTEST) -rs -m distributed

clean:
	rm -rf .venv runs report build *.egg-info .*_cache .hypothesis
