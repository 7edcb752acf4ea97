PYTHON ?= python3
PY := .venv/bin/python
SET_UP := .venv/.set-up

.DEFAULT_GOAL := help
.PHONY: help run test check chaos mutants api-key signing-secret package e2e bench cost resources deploy destroy dlq \
  redrive events stats \
  show replay

help: ## show this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(SET_UP) ## run the whole system on this machine (PORT=8000)
	@exec $(PY) -m tools.run

test: $(SET_UP) ## run every test
	@$(PY) -m pytest

check: $(SET_UP) ## format, lint, types, tests
	@$(PY) -m ruff format --check
	@$(PY) -m ruff check
	@$(PY) -m mypy
	@$(PY) -m pytest

chaos: $(SET_UP) ## simulate storms of faults and crashes (SEEDS=1000, or SEED=7 to repeat one)
	@exec $(PY) -m tools.chaos

mutants: $(SET_UP) ## break the code in many ways and see a test fail for each
	@exec $(PY) -m tools.mutants

api-key: $(SET_UP) ## make an API key (NAME=acme SCOPES=produce+consume)
	@exec $(PY) -m tools.api_key "$$NAME" "$$SCOPES"

signing-secret: ## print a secret for WEBHOOK_SIGNING_SECRETS
	@$(PYTHON) -c 'import base64, os; print("whsec_" + base64.b64encode(os.urandom(32)).decode())'

package: $(SET_UP) ## make one CloudFormation template for everything (STAGE=dev)
	@exec $(PY) -m tools.package "$${STAGE:-dev}"

e2e: $(SET_UP) ## deploy the package to an emulated AWS, and drive it
	@exec $(PY) -m tools.e2e

bench: $(SET_UP) ## measure against the bare calls; writes docs/performance.md
	@exec $(PY) -m tools.bench

cost: $(SET_UP) ## what a million events cost
	@exec $(PY) -m tools.cost

resources: $(SET_UP) ## create or update the stack of a stage's resources and settings (STAGE=dev)
	@exec $(PY) -m tools.resources "$${STAGE:-dev}"

deploy: resources ## the same, then deploy the functions and the API (STAGE=dev)
	@exec .venv/bin/chalice deploy --stage "$${STAGE:-dev}"

destroy: $(SET_UP) ## delete functions, API and stack of a stage; its table is kept (STAGE=dev)
	@: "$${STAGE:?make destroy needs the stage: make destroy STAGE=dev}"
	@.venv/bin/chalice delete --stage "$$STAGE"
	@exec $(PY) -m tools.resources "$$STAGE" delete

dlq: $(SET_UP) ## show the dead letter queue, and why (STAGE=dev)
	@exec $(PY) -m tools.ops dlq

redrive: $(SET_UP) ## move the dead letter queue back to the inbox queue (STAGE=dev RATE=20)
	@exec $(PY) -m tools.ops redrive $${RATE:+--rate "$$RATE"}

events: $(SET_UP) ## list events (TRIGGERS_URL=... TRIGGERS_API_KEY=...)
	@exec $(PY) -m tools.ops events

stats: $(SET_UP) ## draw how well events were delivered (WINDOW=1h)
	@exec $(PY) -m tools.ops stats $${WINDOW:+--window "$$WINDOW"}

show: $(SET_UP) ## tell the life of one event (EVENT_ID=evt_...)
	@exec $(PY) -m tools.ops show "$$EVENT_ID"

replay: $(SET_UP) ## say what failed, or push it again (SINCE=2h GO=1 STATUS= EVENT_TYPE= RATE=)
	@exec $(PY) -m tools.ops replay $(if $(filter 1,$(GO)),,--dry-run) $${SINCE:+--since "$$SINCE"} $${STATUS:+--status "$$STATUS"} \
	  $${EVENT_TYPE:+--event-type "$$EVENT_TYPE"} $${RATE:+--rate "$$RATE"}

$(SET_UP): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
	  || { echo 'Python 3.11 or newer is needed, for example: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null \
	  || { echo '$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@echo 'setting up .venv (once, a minute or two)'
	@$(PYTHON) -m venv --clear .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt \
	  || { echo 'the packages were not installed: that needs the network, once; the next make starts it again' >&2; exit 1; }
	@touch $@
