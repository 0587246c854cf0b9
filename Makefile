# make demo   a private federated training, start to end
# make test   the tests (make test-all: the slow ones too, in a browser that make browser installs)
# make check  format, lint, types, architecture
# make bench  the benchmarks
# make vectors  the test vectors: a change in them is a change of the wire
#
# Each makes .venv on its first call and installs nothing on the second.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PINS := PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
RUN ?= runs/demo

.PHONY: demo test test-all browser check bench vectors clean
.DELETE_ON_ERROR:

.venv/.made:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "secagg needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.train: .venv/.made pyproject.toml constraints.txt
	$(PINS) $(BIN)/python -m pip install --quiet --editable '.[train]'
	@touch $@

.venv/.dev: .venv/.made pyproject.toml constraints.txt
	$(PINS) $(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ .venv/.train

demo: .venv/.train
	$(BIN)/secagg train --out $(RUN) --overwrite

test: .venv/.dev
	$(BIN)/python -m pytest -n auto -m 'not slow'

test-all: .venv/.dev browser
	$(BIN)/python -m pytest -n auto

browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit; done; \
	command -v apt-get >/dev/null || { echo 'no browser: install Chromium, or the tests of the pages are skipped'; exit; }; \
	[ "$$(id -u)" = 0 ] || sudo=sudo; \
	$$sudo apt-get update -qq; $$sudo apt-get install --no-install-recommends -y chromium

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.dev
	$(BIN)/python -m pytest benchmarks --benchmark-only

vectors: .venv/.dev
	$(BIN)/python tests/vectors/make.py

clean:
	rm -rf .venv runs .mypy_cache .pytest_cache .ruff_cache .benchmarks .hypothesis .import_linter_cache
