PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast soak chaos fuzz django servers check bench docs site picture dist structure clean

help: ## list the targets
	@grep -hE '^[a-z.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

.venv: .venv/.installed ## make the virtual environment, with everything for development

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: .venv/.installed ## see it work: a worker, tasks, a kill, all in one terminal
	$(BIN)/celeriac demo

test: .venv/.installed servers django ## run the tests
	$(BIN)/python -m pytest -n 4 --dist worksteal

SLOW := tests/promises tests/test_worker_children.py tests/test_demo.py tests/test_docs.py tests/test_benchmarks.py \
	tests/test_reload.py tests/test_web_examples.py tests/test_http_examples.py tests/test_dist.py tests/test_site.py \
	tests/outgoing/test_workers.py tests/web tests/django

test-fast: .venv/.installed servers ## run most tests, in less than two minutes: nothing on RabbitMQ, and no promises
	CELERIAC_TEST_TREES=200 $(BIN)/python -m pytest -n 2 $(SLOW:%=--ignore=%) -k 'not rabbit and not amqp'

soak: .venv/.installed servers django ## run the tests six times beside other work; a test that fails in one run fails here
	@mkdir -p build/soak; yes > /dev/null & one=$$!; yes > /dev/null & two=$$!; \
	trap 'kill $$one $$two' EXIT; trap 'exit 130' INT TERM HUP; failed=0; \
	for run in 1 2 3 4 5 6; do \
		$(BIN)/python -m pytest -n 4 --dist worksteal > build/soak/$$run.log 2>&1 || { failed=1; grep -E '^(FAILED|ERROR)' build/soak/$$run.log; }; \
		echo "run $$run: $$(tail -n 1 build/soak/$$run.log) (build/soak/$$run.log)"; \
	done; exit $$failed

chaos: .venv/.installed servers ## 100,000 tasks on each broker while all is killed at random; and the promised times exactly
	$(BIN)/python -m pytest -p no:randomly -s tests/promises/test_chaos.py --chaos
	$(BIN)/python -m pytest -p no:randomly -s --chaos tests/web/test_idempotency.py
	$(BIN)/python -m pytest -p no:randomly --chaos tests/test_brokers.py -k 'stomp-rabbitmq or amqp-store or amqp-classic or amqp-qpid'
	$(BIN)/python -m pytest -p no:randomly --chaos tests/canvas tests/dashboard/test_every_page.py tests/django tests/mail/test_storm.py \
		tests/test_benchmarks.py tests/test_pairs.py tests/test_web_examples.py tests/web/test_browser.py
	$(BIN)/python -m pytest -p no:randomly -s --chaos $(filter-out tests/promises/test_chaos.py,$(wildcard tests/promises/test_*.py))

fuzz: .venv/.installed servers ## write 20,000 bad inputs into each place where bytes come in, on each server and pool: some hours
	$(BIN)/python -m pytest -p no:randomly -n 4 --timeout 7200 tests/fuzz --fuzz 20000

MONGODB := .venv/peers/mongodb
MONGODB_PACKAGE := secantusdb>=0.7.0b3

AXE := .venv/peers/axe

DJANGO := .venv/peers/django
DJANGO_PYTHON ?= $(lastword $(sort $(wildcard /usr/bin/python3.1[2-9] /usr/local/bin/python3.1[2-9] $(HOME)/.pyenv/versions/3.1[2-9].*/bin/python)))

django: # the newest Django needs a newer Python than the rest, and so an environment of its own
	@$(DJANGO)/bin/python -c 'import jinja2' 2>/dev/null || test -z '$(DJANGO_PYTHON)' || \
		{ $(DJANGO_PYTHON) -m venv $(DJANGO) && $(DJANGO)/bin/python -m pip install --quiet 'Django>=6.1' pytest pytest-timeout -e '.[amqp,mysql,postgresql,web]'; } || \
		{ rm -rf $(DJANGO); echo 'There is no environment with the newest Django; its tests are skipped.'; }

servers: # a server that speaks MongoDB's protocol is a process of its own, in an environment of its own; axe-core is JavaScript
	@test -x $(MONGODB)/bin/secantusd-py || \
		{ $(PYTHON) -m venv $(MONGODB) && $(MONGODB)/bin/python -m pip install --quiet --pre '$(MONGODB_PACKAGE)'; } || \
		{ rm -rf $(MONGODB); echo 'There is no server for the tests of MongoDB, which are skipped.'; }
	@test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || \
		{ command -v redis-server >/dev/null && test -x /usr/lib/rabbitmq/bin/rabbitmq-server && \
			command -v memcached >/dev/null && command -v chromium >/dev/null && \
			command -v node >/dev/null && command -v socat >/dev/null && test -x /usr/sbin/mariadbd && \
			command -v promtool >/dev/null && test -e /usr/share/activemq/bin/activemq.jar && \
			ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; } || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server rabbitmq-server memcached \
			postgresql mariadb-server chromium prometheus nodejs socat activemq default-jre-headless; } >/dev/null
	@test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || command -v chromium-headless-shell >/dev/null || \
		apt-get install -y -qq --no-install-recommends chromium-headless-shell >/dev/null 2>&1 || true # needs less time
	@test -f $(AXE)/node_modules/axe-core/axe.min.js || ! command -v npm >/dev/null || \
		npm install --silent --no-fund --no-audit --prefix $(AXE) axe-core >/dev/null || \
		echo 'There is no axe-core; the tests of accessibility are skipped.'

check: .venv/.installed ## lint, types, layers, public names, and the documentation's site
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -p no:randomly tests/test_public_names.py
	$(BIN)/python tools/site.py

bench: .venv/.installed servers ## measure against Celery and others
	$(BIN)/python -m benchmarks.environments
	$(BIN)/python -m benchmarks

docs: .venv/.installed ## run the examples of the pages and of the docstrings
	$(BIN)/python -m pytest -q -p no:randomly --doctest-modules --doctest-glob='*.md' --doctest-continue-on-failure \
		README.md docs src/celeriac

site: .venv/.installed ## make the documentation's site in build/site
	$(BIN)/python tools/site.py

picture: .venv/.installed servers ## take the picture of the dashboard with which the README opens
	$(BIN)/python -m tests.dashboard.browsing --readme

dist: .venv/.installed ## make the sdist and the wheel in dist
	$(BIN)/python -m build --no-isolation

structure: .venv/.installed ## print the files on a task's road, lines per package and adapter, and fan-in
	$(BIN)/python tools/structure.py

clean: ## remove what was generated
	rm -rf .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
