"""What `make resources` does with the settings of a stage when keys are taken out, when two runs
meet, and when the secret was deleted, on ministack.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy.conftest import Command
from tests.support.checkout import FUNCTIONS, GIVEN, MAKE, Checkout, is_write
from tests.support.ministack import Ministack
from tools import api_key

pytestmark = pytest.mark.timeout(300)

SECRET = "triggers-api-dev-settings"
ACME, ONCALL, SHOP = (api_key.entry(name, api_key.new_key()) for name in ("acme", "oncall", "shop"))


def settings_in_use(aws: Ministack) -> dict[str, str]:
    secret = aws.direct("secretsmanager").get_secret_value(SecretId=SECRET)
    return dict(re.findall("^(.*?)=(.*)", secret["SecretString"], re.MULTILINE))


def keys_in_use(aws: Ministack) -> set[str]:
    return {*settings_in_use(aws)["API_KEYS"].split(",")}


def test_a_key_goes_at_once_and_what_else_the_environment_has_is_left(
    checkout: Checkout, resources: Command, aws: Ministack
) -> None:
    webhook = "https://hooks.zapier.com/hooks/catch/1"
    before = {**GIVEN, "ZAPIER_WEBHOOK_URL": webhook, "API_KEYS": f"{ACME},{ONCALL}"}
    resources(**before)
    left: Any = {"ZAPIER_WEBHOOK_URL": "none", "API_KEYS": f"{ONCALL},{SHOP}"}

    output = checkout.make("resources", "REMOVE_KEY=oncall", **left)

    assert keys_in_use(aws) == {ACME}
    assert settings_in_use(aws)["ZAPIER_WEBHOOK_URL"] == webhook
    assert "  API_KEYS: \N{MINUS SIGN} oncall\n" in output
    assert "left as it is: ZAPIER_WEBHOOK_URL: none\n" in output
    assert "left as it is: API_KEYS: + shop\n" in output
    # The same again, as after an interruption, and then with all the rest.
    assert "oncall was taken out before\n" in resources(REMOVE_KEY="oncall", **left)
    resources("--go", REMOVE_KEY="oncall", **left)
    assert keys_in_use(aws) == {ACME, SHOP}
    assert settings_in_use(aws)["ZAPIER_WEBHOOK_URL"] == "none"


def test_a_deployment_that_took_a_key_out_and_was_interrupted_completes(
    checkout: Checkout, resources: Command, aws: Ministack
) -> None:
    resources(**{**GIVEN, "API_KEYS": f"{ACME},{SHOP}"})
    command = ("deploy", "REMOVE_KEY=acme", "GO=1")
    checkout.interrupt([*MAKE, *command], "POST /2015-03-31/functions", MAKEFLAGS="")

    assert "acme was taken out before\n" in checkout.make(*command)

    assert len(aws.direct("lambda").list_functions()["Functions"]) == len(FUNCTIONS)
    misspelt = resources("deploy", "--go", REMOVE_KEY="acne", status=2)
    assert "no API key is 'acne'; there are: shop:" in misspelt
    assert "repeat the command without REMOVE_KEY" in misspelt
    # What is read when deploying cannot be left as it is.
    resources("--go", API_KEYS=ACME)
    aws.calls.clear()
    output = checkout.make("deploy", "REMOVE_KEY=acme", WORKER_MAX_CONCURRENCY="7", status=1)
    assert keys_in_use(aws) == {SHOP}
    assert "no function was deployed; only REMOVE_KEY was applied" in output
    assert "WORKER_MAX_CONCURRENCY: 5 \N{RIGHTWARDS ARROW} 7" in output
    assert [call for call in aws.calls if call.service == "lambda" and call.method != "GET"] == []


def test_a_run_that_undoes_the_keys_of_another_says_so(
    checkout: Checkout, resources: Command, aws: Ministack
) -> None:
    resources(**{**GIVEN, "API_KEYS": ACME})
    meanwhile(aws, "GetSecretValue", lambda: checkout.resources("--go", API_KEYS=SHOP))

    output = resources("--go", API_KEYS=ONCALL, status=1)

    assert "somebody else changed API_KEYS at the same time" in output
    assert f"  added or taken out in vain: {SHOP[:13]}\n" in output
    resources("--go", API_KEYS=f"{SHOP},{ONCALL}")
    assert keys_in_use(aws) == {ACME, ONCALL, SHOP}


def test_a_run_whose_keys_are_undone_by_another_says_so(
    checkout: Checkout, resources: Command, aws: Ministack
) -> None:
    resources(**{**GIVEN, "API_KEYS": ACME})
    secrets = aws.direct("secretsmanager")
    text = secrets.get_secret_value(SecretId=SECRET)["SecretString"]
    other = text.replace(ACME, f"{ACME},{SHOP}")

    def undo() -> None:
        # The update of a run that had read the keys before, and a later one that keeps its keys:
        # the previous version of the secret does not have this run's key, either.
        for _ in range(2):
            secrets.put_secret_value(SecretId=SECRET, SecretString=other)

    meanwhile(aws, "ExecuteChangeSet", undo)

    output = resources("--go", API_KEYS=ONCALL, status=1)

    assert f"  added or taken out in vain: {ONCALL[:15]}\n" in output
    # Who reads after an update keeps what that added.
    meanwhile(aws, "ExecuteChangeSet", lambda: checkout.resources("--go", API_KEYS=ONCALL))
    resources("--go", REMOVE_KEY="shop")
    assert keys_in_use(aws) == {ACME, ONCALL}


def meanwhile(aws: Ministack, operation: str, act: Callable[[], object]) -> None:
    """Act once after the next call of an operation, before its response arrives."""

    def look(seen: str) -> None:
        if seen.startswith(operation):
            aws.seen = lambda _: None
            act()

    aws.seen = look


def test_nothing_is_changed_while_the_settings_wait_for_their_deletion(
    checkout: Checkout, resources: Command, aws: Ministack
) -> None:
    resources(**GIVEN)
    aws.direct("secretsmanager").delete_secret(SecretId=SECRET, RecoveryWindowInDays=7)
    operations: list[str] = []
    aws.seen = operations.append

    for arguments in (["resources"], ["deploy"], ["resources", "NEW_SECRET=1"]):
        output = checkout.make(*arguments, status=1)
        assert f"aws secretsmanager restore-secret --secret-id {SECRET}\n" in output
    assert not any(map(is_write, operations))


def test_deleted_settings_are_made_again_with_the_values_of_the_stack(
    checkout: Checkout, resources: Command, aws: Ministack
) -> None:
    resources(**{**GIVEN, "API_KEYS": f"{ACME},{SHOP}"})
    before = settings_in_use(aws)
    gone = {"SecretId": SECRET, "ForceDeleteWithoutRecovery": True}
    aws.direct("secretsmanager").delete_secret(**gone)

    output = checkout.make("resources", status=1)
    assert "make resources STAGE=dev NEW_SECRET=1" in output
    renewal = [*MAKE, "resources", "NEW_SECRET=1"]
    checkout.interrupt(renewal, "ExecuteChangeSet", MAKEFLAGS="")  # the first of two
    resources(NEW_SECRET="1", REMOVE_KEY="shop")

    assert settings_in_use(aws) == {**before, "API_KEYS": ACME}
    assert "no changes" in resources(NEW_SECRET="1")
