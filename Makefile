# Of .venv, and so of the functions: of what is there the newest that was tested.
PYTHON ?= $(shell python3.13 -c 'import ensurepip, venv' 2> /dev/null && echo python3.13 || echo python3)
PY := .venv/bin/python
SET_UP := .venv/.set-up
SET_UP_DEV := .venv/.set-up-dev

# Bytecode, which some environments turn off, halves the time to start. Beside the sources, Chalice would package it.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/pycache
# The AWS CLI goes by AWS_REGION first; boto3 and Chalice do not read it.
ifneq ($(AWS_REGION),)
override AWS_DEFAULT_REGION := $(AWS_REGION)
export AWS_DEFAULT_REGION
endif

.DEFAULT_GOAL := help
.PHONY: help dev run test lint check chaos outage year versions mutants languages zapier zapier-validate api-key signing-secret package e2e ways third bench \
  pictures resources deploy destroy export-subscriptions smoke dlq redrive show replay erase send token \
  send-to undelivered missed recover subscriptions enable disable import-subscriptions

# TAKES_<goal> has the variables that a goal takes on make's command line, beside those of TAKEN_BY_ALL. Before any recipe runs,
# make refuses other names and empty values with status 2: a misspelt or empty filter would widen what is replayed or erased.
# Goals without such a line take any variable.
TAKES_run := PORT
TAKES_api-key := NAME SCOPES
TAKES_signing-secret :=
TAKES_package := STAGE
TAKES_resources := STAGE REMOVE_KEY NEW_SECRET GO
TAKES_deploy := STAGE REMOVE_KEY GO RUNTIME
TAKES_destroy := STAGE CONFIRM
TAKES_export-subscriptions := STAGE
TAKES_smoke := STAGE TARGET_URL
TAKES_dlq := STAGE LIMIT
TAKES_redrive := STAGE RATE
TAKES_show := EVENT_ID SUBJECT
TAKES_replay := GO SINCE UNTIL STATUS EVENT_TYPE TENANT SUBSCRIPTION_ID EVENT_ID RATE
TAKES_erase := GO METADATA TENANT SINCE UNTIL RATE
TAKES_send := TYPE PAYLOAD METADATA TENANT SUBJECT FILE
TAKES_token := TENANT EXPIRES_IN
TAKES_send-to := SUBSCRIPTION_ID EVENT_ID
TAKES_undelivered := TENANT SINCE
TAKES_missed := SUBSCRIPTION_ID SINCE UNTIL SUBJECT
TAKES_recover := GO SUBSCRIPTION_ID SINCE UNTIL
TAKES_subscriptions := STAGE TENANT STATE
TAKES_enable := SUBSCRIPTION_ID DISMISS GO TENANT
TAKES_disable := SUBSCRIPTION_ID GO TENANT
TAKES_import-subscriptions := GO FILE
# Variables that each of these goals takes, also empty. `make run` takes the settings in the first column of docs/settings.md, too.
TAKEN_BY_ALL := PY PYTHON AWS_% TRIGGERS_URL TRIGGERS_API_KEY ZAPIER_WEBHOOK_URL API_KEYS WEBHOOK_SIGNING_SECRETS SUSPENDED_TENANTS ALARM_EMAIL ALARM_URL QUIET_ALARM_HOURS DASHBOARD \
  $(if $(filter run,$(MAKECMDGOALS)),$(shell sed -n 's/^| \(`[^|]*`\) |.*/\1/p' docs/settings.md | tr -d '`,'))
# The names of all variables on the command line. (A loop hides a variable that is called like its own: hence `_name`.)
GIVEN := $(foreach _name,$(.VARIABLES),$(if $(findstring command line,$(origin $(_name))),$(_name)))
# Export each value as it was typed: make would expand a $ in it.
$(foreach _name,$(GIVEN),$(eval override $(_name) := $$(value $(_name)))$(eval export $(_name)))
# The goals of the command line that have a TAKES_ line.
CHECKED_GOALS := $(foreach goal,$(MAKECMDGOALS),$(if $(filter TAKES_$(goal),$(.VARIABLES)),$(goal)))
# Refuse the first name that a goal does not take, then the first empty value.
$(foreach goal,$(CHECKED_GOALS),\
  $(foreach _name,$(filter-out $(TAKEN_BY_ALL) $(TAKES_$(goal)),$(GIVEN)),$(error make $(goal) does not take $(_name)))\
  $(foreach _name,$(filter-out $(TAKEN_BY_ALL),$(GIVEN)),$(if $($(_name)),,$(error make $(goal) wants a value for $(_name)))))

$(if $(filter destroy,$(MAKECMDGOALS)),$(if $(STAGE),,$(error make destroy needs the stage: make destroy STAGE=dev)))

help: ## show this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(SET_UP) ## run the whole system on this machine (PORT=8000)
	@exec $(PY) -m tools.run

dev: $(SET_UP_DEV) ## set up what tests need, for one test: .venv/bin/python -m pytest -n 0 path::test

test: $(SET_UP_DEV) ## run every test
	@$(PY) -m tests.support.packages e2e npm
	@$(PY) -m pytest

lint: $(SET_UP_DEV) ## check format, lint and types
	@$(PY) -m ruff format --check
	@$(PY) -m ruff check
	@$(PY) -m mypy

check: lint test ## lint, then run every test

chaos: $(SET_UP_DEV) ## simulate storms of faults and crashes (SEEDS=500, or SEED=7 to repeat one) and all pairs of them, then kill a real system
	@$(PY) -m tests.simulator.chaos
	@test -n "$$SEED" || PAIRS=9999999 $(PY) -m pytest --dist load tests/crash/test_crash_points.py
	@test -n "$$SEED" || CHAOS=1 $(PY) -m pytest -n 0 tests/crash/test_kill.py

outage: $(SET_UP_DEV) ## simulate destinations in trouble, and print who waits how long
	@exec $(PY) -m measure.outage

year: $(SET_UP_DEV) ## simulate a year of a stage (MONTHS=13), and compare its quiet days with the first ones
	@exec $(PY) -m measure.year

versions: $(SET_UP_DEV) ## simulate a stage in which functions of this version and of 1.0.0 run beside each other: storms (SEEDS=100), then months (MONTHS=2)
	@SEEDS=$${SEEDS:-100} BESIDE=1 $(PY) -m tests.simulator.chaos
	@MONTHS=$${MONTHS:-2} BESIDE=1 $(PY) -m measure.year

mutants: $(SET_UP_DEV) ## break the code in many ways and see a test fail for each
	@exec $(PY) -m tests.mutants

languages: $(SET_UP_DEV) ## run the receivers of docs/receiving.md and examples/receivers; what is not installed is skipped
	@LANGUAGES=1 $(PY) -m pytest -n 0 -rs tests/functional/test_docs.py -k receivers_take_genuine

zapier: $(SET_UP_DEV) zapier-validate ## validate and test the Zapier integration (needs Node)
	@ZAPIER=1 $(PY) -m pytest -n 0 tests/zapier

# Without .venv, so that CI can do it while that is set up.
zapier-validate:
	@cd examples/zapier && npm ci --no-audit --no-fund --silent && npm run --silent validate

api-key: $(SET_UP) ## make an API key (NAME=acme SCOPES=produce+consume; erase must be named)
	@exec $(PY) -m tools.api_key "$$NAME" "$$SCOPES"

signing-secret: $(SET_UP) ## print a new secret for WEBHOOK_SIGNING_SECRETS
	@exec $(PY) -c 'from tools import api_key; print(api_key.new_signing_secret())'

# PYTHON counts when .venv is set up. Given later, it changes nothing.
VERSION := -c 'import sys; print("python%d.%d" % sys.version_info[:2])'
define say-python
@own=$$($(PY) $(VERSION)); echo "the functions run on $$own, the Python of .venv"; \
  $(if $(filter file default,$(origin PYTHON)),:,test "$$($(PYTHON) $(VERSION))" = "$$own" \
  || echo 'warning: PYTHON=$(PYTHON) is another one; rm -r .venv, and make sets .venv up with it' >&2)
endef

package: $(SET_UP) ## make one CloudFormation template for everything (STAGE=dev)
	$(say-python)
	@exec $(PY) -m tools.package "$${STAGE-dev}"

ways: $(SET_UP_DEV) ## interrupt deployments to an emulated AWS, and complete them (ALL=1: after each write)
	@exec $(PY) -m measure.ways

e2e: $(SET_UP_DEV) ## deploy the package to an emulated AWS, and drive it; run it under AWS's own runtime client
	@$(PY) -m tests.support.packages e2e lambda
	@E2E=1 $(PY) -m pytest -vv -n 0 tests/e2e

third: $(SET_UP_DEV) ## make, change and delete the stack on LocalStack, a third emulated AWS, and redrive there
	@exec $(PY) -m measure.third

pictures: $(SET_UP_DEV) ## draw the pictures of the docs from the page of today (needs Chromium)
	@PICTURES=1 $(PY) -m pytest -n 0 tests/browser -k 'says_who_got_it or page_of_its_tenant'
	@cp build/screenshots/order-light.png docs/console.png
	@cp build/screenshots/customer-event-light.png docs/customer.png

bench: $(SET_UP_DEV) ## measure the performance goals
	@exec $(PY) -m measure.bench

# Chalice shows a traceback before it says what is wrong.
define deploy-functions
@$(PY) -m tools.bytecode
@{ said=$$(AWS_RETRY_MODE=standard AWS_MAX_ATTEMPTS=10 .venv/bin/chalice deploy --stage "$${STAGE-dev}" 2>&1 >&3); } 3>&1 \
  || { echo "$${said##*following error:}"; \
  denied=$$(echo "$$said" | tr '\n' ' ' | sed -n 's/.*to perform: *\([a-z0-9-]*:[A-Za-z]*\).*/\1/p'); \
  case "$$said" in \
  *AccessDenied* | *'to perform:'*) echo "AWS denied $${denied:-this} to these credentials: let them have docs/deployer-policy.json.";; \
  *) echo 'If somebody else deploys this stage, wait until that is done.';; \
  esac; echo 'Then make deploy again, which completes it.'; exit 1; } >&2
endef

resources: $(SET_UP) ## create or update the stack of a stage's resources and settings (STAGE=dev; REMOVE_KEY=acme takes a key out; GO=1 changes settings that it has; NEW_SECRET=1 makes a deleted secret again)
	@exec $(PY) -m tools.resources "$${STAGE-dev}" $(GO_FLAG)

deploy: $(SET_UP) ## make resources, then deploy the functions and the API (STAGE=dev; REMOVE_KEY=acme; GO=1, also for settings of the functions; RUNTIME=python3.13 changes their Python)
	@$(PY) -m tools.resources "$${STAGE-dev}" deploy $(GO_FLAG)
	$(say-python)
	$(deploy-functions)
	@exec $(PY) -m tools.gateway "$${STAGE-dev}"

export-subscriptions: $(SET_UP) ## print a JSON line for each subscription, with target URL and secret (STAGE=dev)
	@exec $(PY) -m tools.resources "$${STAGE-dev}" export

smoke: $(SET_UP) ## check a deployed stage, or `make run`, through its API (TRIGGERS_URL, TRIGGERS_API_KEY, STAGE=); TARGET_URL= is a receiver, and shows that the worker pushes
	@exec $(PY) -m tools.smoke

destroy: $(SET_UP) ## delete functions, API and stack of a stage; its table stays (STAGE=dev CONFIRM=dev)
	@$(PY) -m tools.resources "$$STAGE" check
	@AWS_RETRY_MODE=standard AWS_MAX_ATTEMPTS=10 .venv/bin/chalice delete --stage "$$STAGE"
	@exec $(PY) -m tools.resources "$$STAGE" delete

# The goals below read their variables from the environment, into which make exports the command line. GO counts on the command
# line alone: a GO that a shell exported would push, erase or change what was to be counted or shown.
GO_FLAG := $(if $(filter GO,$(GIVEN)),$(if $(filter 1,$(GO)),--go))
dlq: $(SET_UP) ## show the dead letter queue (STAGE=prod LIMIT=100)
	@exec $(PY) -m tools.ops dlq

redrive: $(SET_UP) ## move dead letters back to the work queue (STAGE=prod RATE=20)
	@exec $(PY) -m tools.ops redrive

show: $(SET_UP) ## show the life of one event (EVENT_ID=evt_... or SUBJECT=order-4711)
	@exec $(PY) -m tools.ops show

replay: $(SET_UP) ## count failed events, or push them: GO=1 (SINCE=2h UNTIL= STATUS= EVENT_TYPE= TENANT= SUBSCRIPTION_ID= EVENT_ID= RATE=20)
	@exec $(PY) -m tools.ops replay $(GO_FLAG)

send-to: $(SET_UP) ## send an event to one subscription (SUBSCRIPTION_ID= EVENT_ID=)
	@exec $(PY) -m tools.ops send-to

undelivered: $(SET_UP) ## list what did not arrive at a tenant's webhooks, or at all; status 0 only if everything did (TENANT= SINCE=1d)
	@exec $(PY) -m tools.ops undelivered

missed: $(SET_UP) ## list what a subscription did not get, and why (SUBSCRIPTION_ID= SINCE=2h UNTIL= SUBJECT=)
	@exec $(PY) -m tools.ops missed

recover: $(SET_UP) ## count what failed or waits at a subscription, or push it again: GO=1; SINCE=2h also sends what never was (SUBSCRIPTION_ID= UNTIL=)
	@exec $(PY) -m tools.ops recover $(GO_FLAG)

subscriptions: $(SET_UP) ## list subscriptions with their states, and what each lost (STAGE= TENANT= STATE=)
	@exec $(PY) -m tools.ops subscriptions

enable: $(SET_UP) ## push to a subscription again (SUBSCRIPTION_ID= DISMISS=1), or count a tenant's or enable them: GO=1 (TENANT=)
	@exec $(PY) -m tools.ops enable $(GO_FLAG)

disable: $(SET_UP) ## push nothing to a subscription until it is enabled (SUBSCRIPTION_ID=), or count a tenant's or disable them: GO=1 (TENANT=)
	@exec $(PY) -m tools.ops disable $(GO_FLAG)

import-subscriptions: $(SET_UP) ## check what export-subscriptions printed, or make it through the API: GO=1 (FILE=subscriptions.jsonl)
	@exec $(PY) -m tools.ops import-subscriptions $(GO_FLAG)

erase: $(SET_UP) ## count matching events and copies, or erase them: GO=1 (METADATA='user_id=42' TENANT= SINCE=30d UNTIL= RATE=20)
	@exec $(PY) -m tools.ops erase $(GO_FLAG)

send: $(SET_UP) ## post an event (TYPE=order.created PAYLOAD='{...}' METADATA= TENANT= SUBJECT=), or a file of JSON lines (FILE=events.jsonl)
	@exec $(PY) -m tools.ops send

token: $(SET_UP) ## make a token for a tenant, and the link to its page (TENANT=customer-42 EXPIRES_IN=7d)
	@exec $(PY) -m tools.ops token

# $(call set-up,what,commands): change .venv, which one make does at a time. What the commands say is shown if they fail.
define set-up
@test ! -L .venv || { echo '.venv is a symbolic link: set-up would empty the folder that it names; rm .venv' >&2; exit 1; }
@mkdir .venv.lock 2> /dev/null \
  || { echo 'another make is setting up .venv: wait until it is done (rmdir .venv.lock if it was killed)' >&2; exit 1; }; \
trap 'rmdir .venv.lock' EXIT; trap 'echo "stopped; make begins again next time" >&2; exit 130' INT TERM; \
echo '$(1) (once, half a minute or so)'; \
said=$$({ $(2); } 2>&1) && touch $@ || { echo "$$said" >&2; \
  echo 'the packages were not installed, which needs the network once; make again retries' >&2; exit 1; }
endef
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check

$(SET_UP): requirements.txt requirements/run.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
	  || { echo 'Python 3.11 or newer is needed, for example: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null \
	  || { echo '$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	$(call set-up,setting up .venv,$(PYTHON) -m venv --clear .venv && $(PIP_INSTALL) --no-compile -r requirements/run.txt)

$(SET_UP_DEV): $(SET_UP) requirements/dev.txt
	$(call set-up,adding what tests need to .venv,$(PIP_INSTALL) --no-compile -r requirements/dev.txt)
