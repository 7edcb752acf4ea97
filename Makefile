PYTHON ?= python3
PY := .venv/bin/python
RUN := .venv/.set-up
DEV := .venv/.set-up-dev

.DEFAULT_GOAL := help
.PHONY: help run test check chaos mutants zapier api-key signing-secret resources deploy destroy package e2e \
  bench dlq redrive show replay send

help: ## show this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(RUN) ## run the whole system on this machine (PORT=8000)
	@exec $(PY) -m tools.run

test: $(DEV) ## run every test
	@$(PY) -m pytest

check: $(DEV) ## format, lint, types, tests
	@$(PY) -m ruff format --check
	@$(PY) -m ruff check
	@$(PY) -m mypy
	@$(PY) -m pytest

chaos: $(DEV) ## simulate storms of faults and crashes (SEEDS=1000, or SEED=7 to repeat one)
	@exec $(PY) -m tools.chaos

mutants: $(DEV) ## break the code in many ways and see a test fail for each
	@exec $(PY) -m tools.mutants

zapier: ## test the Zapier integration (needs Node)
	@cd examples/zapier && npm install --no-audit --no-fund --silent && npm test

api-key: $(RUN) ## make an API key (NAME=acme SCOPES=produce+consume)
	@exec $(PY) -m tools.api_key "$$NAME" "$$SCOPES"

signing-secret: $(RUN) ## make a secret that signs pushes
	@exec $(PY) -c 'import base64, secrets; print("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())'

resources: $(RUN) ## make or update the stack of a stage (STAGE=dev)
	@exec $(PY) -m tools.resources

deploy: resources ## make resources and chalice deploy (STAGE=dev)
	@exec $(PY) -m chalice.cli deploy --stage "$${STAGE:-dev}"

destroy: $(RUN) ## take a stage down; its table is kept (STAGE=dev)
	@exec $(PY) -m tools.destroy

package: $(RUN) ## make one CloudFormation template for everything (STAGE=dev)
	@exec $(PY) -m tools.package

e2e: $(DEV) ## deploy the package to an emulated AWS, and drive it
	@exec $(PY) -m tools.e2e

bench: $(DEV) ## measure against the bare calls
	@exec $(PY) -m tools.bench

dlq: $(RUN) ## show the dead letter queue, and why (STAGE=dev)
	@exec $(PY) -m tools.ops dlq

redrive: $(RUN) ## move the dead letter queue back to the inbox queue (STAGE=dev RATE=20)
	@exec $(PY) -m tools.ops redrive $${RATE:+--rate "$$RATE"}

show: $(RUN) ## show the life of one event (EVENT_ID=evt_...)
	@exec $(PY) -m tools.ops show "$$EVENT_ID"

replay: $(RUN) ## list what failed, or push it again (SINCE=2h GO=1 STATUS= EVENT_TYPE= RATE=)
	@exec $(PY) -m tools.ops replay $(if $(filter 1,$(GO)),,--dry-run) $${SINCE:+--since "$$SINCE"} $${STATUS:+--status "$$STATUS"} \
	  $${EVENT_TYPE:+--event-type "$$EVENT_TYPE"} $${RATE:+--rate "$$RATE"}

$(RUN): requirements.txt requirements-run.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
	  || { echo 'Python 3.11 or newer is needed, for example: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null \
	  || { echo '$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@echo 'setting up .venv (once, half a minute or so)'
	@$(PYTHON) -m venv --clear .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-run.txt \
	  || { echo 'the packages were not installed, which needs the network once; make again retries' >&2; exit 1; }
	@touch $@

$(DEV): $(RUN) requirements-dev.txt
	@echo 'adding what tests need to .venv (once, half a minute or so)'
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt \
	  || { echo 'the packages were not installed, which needs the network once; make again retries' >&2; exit 1; }
	@touch $@
