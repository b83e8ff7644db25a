PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test chaos servers check bench docs structure clean

help: ## list the targets
	@grep -hE '^[a-z.]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

.venv: .venv/.installed ## make the virtual environment, with everything for development

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: .venv/.installed ## see it work: a worker, tasks, a kill, all in one terminal
	$(BIN)/celeriac demo

test: .venv/.installed servers ## run the tests
	$(BIN)/python -m pytest -n 3

chaos: .venv/.installed servers ## 100,000 tasks on each broker, while everything is killed at random
	$(BIN)/python -m pytest -p no:randomly -s tests/promises/test_chaos.py --chaos

servers:
	@test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || \
		{ command -v redis-server >/dev/null && test -x /usr/lib/rabbitmq/bin/rabbitmq-server; } || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server rabbitmq-server; } >/dev/null

check: .venv/.installed ## lint, types, layers, public names
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -p no:randomly tests/test_public_names.py

bench: .venv/.installed servers ## measure against Celery and others
	$(BIN)/python -m benchmarks.environments
	$(BIN)/python -m benchmarks

docs: .venv/.installed ## run the examples of the pages and of the docstrings
	$(BIN)/python -m pytest -q -p no:randomly --doctest-modules --doctest-glob='*.md' --doctest-continue-on-failure \
		README.md docs src/celeriac

structure: .venv/.installed ## print the files on a task's road, lines per package and adapter, and fan-in
	$(BIN)/python tools/structure.py

clean: ## remove what was generated
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
