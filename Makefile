# Everything that is run on everlog, by people and by CI. `make` alone tells what there is.
#
# Each target sets up .venv first, from constraints.txt, where it is missing or out of date.
# PYTHON=python3.12 chooses another Python, VENV=.venv-3.12 sets it up beside the first, and
# ARGS="…" reaches the program that a target runs.

.DELETE_ON_ERROR:
.PHONY: help demo demo-fleet serve test test-all torture lint fmt bench bench-report proto docs docs-serve screenshots wheel clean

# The tests start many programs: each would compile everlog again.
unexport PYTHONDONTWRITEBYTECODE

VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# By package, not by folder: a folder `store/` is the package `everlog.store`.
CHECKED := everlog tests _generate $(wildcard benchmarks) $(notdir $(patsubst %/.,%,$(wildcard examples/*/.)))

help:
	@echo 'make demo          the whole of everlog on real data, in three minutes   ARGS=--console'
	@echo 'make demo-fleet    50 databases upgraded in unison, while some are killed   ARGS="--shops 200"'
	@echo 'make serve         the example server and its console, until stopped'
	@echo 'make test          the tests           ARGS="tests/store -k scan"'
	@echo 'make test-all      the tests, with those that take long'
	@echo 'make torture       kills, failing disks, fuzzing  MINUTES=30, or SEED=7 again'
	@echo 'make lint          formatter, linter, words, type checker'
	@echo 'make fmt           formats, and fixes what the linter can fix'
	@echo 'make bench         the benchmarks      ARGS="commit scan --scale 0.01"'
	@echo 'make bench-report  the table of the last benchmarks'
	@echo 'make proto         the generated code of the contract'
	@echo 'make docs          the site of the docs, in build/docs/site'
	@echo 'make docs-serve    the same, shown on http://127.0.0.1:8000       PORT=8001'
	@echo 'make screenshots   the pictures of the console in docs/console, with Chromium'
	@echo 'make wheel         the wheel, in dist/'
	@echo 'make clean         removes what was built; .venv stays'

demo: $(VENV)/demo.stamp
	PYTHONPATH=examples $(BIN)/python -m flights.demo $(ARGS)

demo-fleet: $(VENV)/demo.stamp
	PYTHONPATH=examples $(BIN)/python -m shops.demo $(ARGS)

serve: $(VENV)/demo.stamp
	PYTHONPATH=examples $(BIN)/python -m flights.serve $(ARGS)

# A test that its own timeout cannot end (in C code, or in a wait while it fails) ends its process after
# HUNG_S seconds; another process runs the rest.
HUNG_S = 600
test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest --numprocesses 4 -m 'not long' -o faulthandler_timeout=$(HUNG_S) \
		-o faulthandler_exit_on_timeout=true $(ARGS)

test-all: $(VENV)/dev.stamp
	$(BIN)/python -m pytest --numprocesses 4 $(ARGS)

torture: $(VENV)/dev.stamp
	$(BIN)/python -m tests.crash.torture --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check --quiet --output-format concise .
	$(BIN)/ruff check --quiet --output-format concise .
	$(BIN)/python tests/test_words.py
	$(BIN)/mypy $(addprefix -p ,$(CHECKED))

fmt: $(VENV)/dev.stamp
	$(BIN)/ruff check --quiet --fix . || true
	$(BIN)/ruff format --quiet .

bench: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks $(ARGS)

bench-report: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks report $(ARGS)

proto: $(VENV)/dev.stamp
	$(BIN)/python -m everlog.proto.generate

# A warning, such as a link that leads nowhere, fails the build.
docs: $(VENV)/dev.stamp
	$(BIN)/python -m sphinx -W --keep-going --quiet -d build/docs/doctrees docs build/docs/site $(ARGS)

docs-serve: docs
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/docs/site $(or $(PORT),8000)

screenshots: $(VENV)/dev.stamp
	PYTHONPATH=examples $(BIN)/python -m tests.console.web.screenshots $(ARGS)

# setuptools would add the files of an earlier build that have gone since.
wheel: constraints.txt | $(VENV)/bin/python
	rm -rf build/lib build/bdist.*
	$(PIP) install -c constraints.txt setuptools
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './.venv*/*' -prune -exec rm -rf {} +

# One environment, two sizes: what the demo needs, and everything.
$(VENV)/demo.stamp: constraints.txt pyproject.toml | $(VENV)/bin/python
	$(PIP) install -c constraints.txt setuptools
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[console,demo]'
	@touch $@

$(VENV)/dev.stamp: constraints.txt pyproject.toml | $(VENV)/bin/python
	$(PIP) install -c constraints.txt setuptools
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[archive,audit,build,console,demo,dev,docs,metrics,notify,oidc,otel,parquet,seal,testdata]'
	@touch $@ $(VENV)/demo.stamp

# The first Python that is new enough and can make an environment (on Debian and Ubuntu that is
# a package of its own).
$(VENV)/bin/python:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "$$python -m venv $(VENV)"; exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo 'Expected Python 3.11 or newer with its venv module; found none.' >&2; \
	echo 'Debian, Ubuntu: apt install python3 python3-venv     macOS: brew install python' >&2; \
	echo 'Then run make again, or name one: make PYTHON=/path/to/python3' >&2; \
	exit 1
