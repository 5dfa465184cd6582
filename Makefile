# Everything a person types. The work is done by bin/ and launcher/; `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help run stop status clean setup dev-setup test faults soak deployment lint lint-python lint-sql audit format bench sandbox lock

python := .state/venv/bin/python
checked := plugins/ai_usage plugins/ai_usage_plugin.py launcher sandbox dags bench tests
# The environment is compiled as it is imported; a caller who wants no bytecode would make every start of a process slow.
unexport PYTHONDONTWRITEBYTECODE
# Tests wait for servers much of their time, so that three at once pay on two cores as well.
workers := $(shell n=$$(nproc 2>/dev/null || echo 2); if [ "$$n" -gt 3 ]; then echo 4; else echo 3; fi)
compile := .state/uv/bin/uv pip compile --universal --python-version 3.11 --no-build --generate-hashes

help: ## show this list
	@echo "make <target>:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r name text; do printf '  %-12s %s\n' "$$name" "$$text"; done
	@echo "In the project's environment, from any folder: bin/airflow …  bin/dbt …  bin/psql …  bin/ai-usage …"

run: ## set up, start everything, load and transform, show the table; Ctrl-C ends it (ONCE=1: ends by itself)
	@exec bin/_launcher run --end-with-parent

stop: ## stop what runs, from another terminal
	@exec bin/_launcher stop

status: ## say whether it runs and where its UI is
	@bin/_launcher status || :

clean: ## stop, and remove everything that was created (.state)
	@exec bin/_launcher clean

setup: ## create the environment from the lock, start nothing
	@exec bin/_setup

dev-setup: ## the same with the tools for tests and lint
	@exec bin/_setup dev

test: dev-setup ## run the tests, as CI does; make test ARGS='-k loader' runs some
	@$(python) -m pytest -n $(workers) --dist loadfile --no-loadscope-reorder tests $(ARGS)

faults: dev-setup ## play every scenario of the fault matrix, and print what became of each
	@$(python) -m pytest -q -n auto --maxprocesses=4 --dist loadfile tests/faults/test_matrix_*.py $(ARGS)

soak: dev-setup ## play 200 random schedules of faults, kills and restatements (SEEDS=…; SEED=… the first one)
	@AI_USAGE_TEST_SCHEDULES=$(or $(SEEDS),200) $(if $(SEED),AI_USAGE_TEST_SEED=$(SEED)) \
		$(python) -m pytest -v -n auto --maxprocesses=4 tests/faults/test_random_schedules.py $(ARGS)

deployment: dev-setup ## run docker-compose.yaml for real, hurt it, back it up, restore it (needs Docker; half an hour)
	@AI_USAGE_TEST_DEPLOYMENT=1 $(python) -m pytest -v -s tests/deployment $(ARGS)

lint: ## check style, types and SQL
	@$(MAKE) --no-print-directory -j2 lint-python lint-sql

lint-python: dev-setup ## the half of it that concerns Python
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy --strict $(checked)
	$(python) -m mypy --strict docker/in_image

lint-sql: dev-setup ## the half of it that concerns SQL
	$(python) -m sqlfluff lint dbt_project plugins/ai_usage/warehouse/migrations

audit: dev-setup ## check the dependencies: whole lock, environment equal to it
	@PYTHONPATH=. $(python) -P -m launcher.audit

format: dev-setup ## put Python and SQL into the project's form
	$(python) -m ruff check --fix .
	$(python) -m ruff format .
	$(python) -m sqlfluff fix dbt_project plugins/ai_usage/warehouse/migrations

# In `make bench load` the words after `bench` say which; they are no targets of their own.
ifeq (bench,$(firstword $(MAKECMDGOALS)))
words := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
ifneq (,$(words))
.PHONY: $(words)
$(words): bench
	@:
endif
endif

# Compiled first, so that no figure holds the time that Python takes to compile what it imports for the first time.
bench: setup ## measure everything; make bench load, make bench calls parse: some of it
	@$(python) -m compileall -qq -j 0 .state/venv/lib || :
	@PYTHONPATH=plugins:. $(python) -P -m bench $(words) $(ARGS)

sandbox: setup ## run the providers' stand-ins alone, until Ctrl-C
	@mkdir -p .state/sandbox
	@PYTHONPATH=. exec $(python) -P -m sandbox serve --state-folder .state/sandbox $(ARGS)

lock: ## write the lock files anew from requirements*.in
	@bin/_setup uv
	$(compile) --upgrade requirements.in -o requirements.txt
	$(compile) --upgrade requirements-local.in -o requirements-local.txt
	$(compile) --upgrade requirements-server.in -o requirements-server.txt
	$(compile) --upgrade requirements-dev.in -o requirements-dev.txt
	$(compile) --upgrade requirements-bench.in -o requirements-bench.txt
