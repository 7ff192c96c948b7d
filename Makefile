# `make demo` and `make test` are all that a fresh machine needs: both make the environment first.

PYTEST = OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist worksteal

.PHONY: help setup demo demo-inrct test test-all lint format docs benchmark soak clean

help:
	@echo 'make demo       train a model of letters and one of solids, sample and upsample both into demo/'
	@echo 'make demo-inrct train a consistency model of digits, sample it in one and two steps, encode digits, into demo/'
	@echo 'make test       all tests but the slow ones'
	@echo 'make test-all   all tests'
	@echo 'make lint       ruff and pyright'
	@echo 'make format     format the code with ruff'
	@echo 'make docs       build the site of docs/ and the API into site/'
	@echo 'make benchmark  time and memory against straightforward implementations, as tables'
	@echo 'make soak       kill runs, damage files, fill disks; print a table (docs/reliability.md)'
	@echo 'make setup      create the environment (.venv)'

setup:
	@sh tools/setup.sh

demo: setup
	@.venv/bin/inrflow demo

demo-inrct: setup
	@.venv/bin/python -m tools.demo_inrct

test: setup
	$(PYTEST) -m 'not slow'

test-all: setup
	$(PYTEST)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs: setup
	.venv/bin/mkdocs build --strict --quiet

benchmark: setup
	@set -e; for script in tests/benchmarks/*.py; do \
	    echo "\$$ python $$script"; OMP_NUM_THREADS=1 .venv/bin/python $$script; \
	done

soak: setup
	@.venv/bin/python -m tools.soak $(SOAK)

clean:
	rm -rf demo build dist site .pytest_cache .ruff_cache
