"""`make resources`, and what is refused before it changes anything, as processes in checkouts, on
ministack.
"""

import json
import re
from typing import Any

import pytest
from chalice.config import Config

from tests.deploy.conftest import Command
from tests.support.checkout import (
    ELSEWHERE,
    FUNCTIONS,
    GIVEN,
    MAKE,
    PLACE,
    RESTORED,
    RUNTIME,
    TABLE,
    Checkout,
    is_write,
)
from tests.support.ministack import Ministack, without_metric_math
from tests.support.packages import install
from tests.support.world import ROOT, Json
from tools import api_key
from tools.function_changes import describe_catalogue
from tools.stage import FUNCTION_SUFFIXES, read_template

pytestmark = pytest.mark.timeout(300)

STACK = "triggers-api-dev-resources"
CONFIG = json.loads((ROOT / ".chalice" / "config.json").read_text())
EMPTY_ZIP = b"PK\5\6" + bytes(18)


def test_an_index_that_is_added_can_be_read_when_resources_ends(
    resources: Command, aws: Ministack
) -> None:
    template = read_template("dev")
    properties = template["Resources"]["EventsTable"]["Properties"]
    del properties["GlobalSecondaryIndexes"][3:]
    del properties["AttributeDefinitions"][5:]
    text = without_metric_math(json.dumps(template))
    parameters = {"ZapierWebhookUrl": "none", "ApiKeys": ""}
    aws.create_stack(STACK, text, parameters)
    aws.looks_left = aws.index_looks = 2

    output = resources()

    before, after = re.findall(rf"waiting for {TABLE}, 0 min: (.*)", output)
    assert (before, after) == ("tenant-index CREATING", "undelivered-index CREATING")
    assert aws.looks_left == 0
    # as after a run that was interrupted
    aws.looks_left = 2
    aws.replaced = {b"<StackStatus>UPDATE_COMPLETE": b"<StackStatus>UPDATE_IN_PROGRESS"}
    aws.seen = lambda operation: (
        aws.replaced.clear() if operation.startswith("DescribeStacks") else None
    )
    output = resources("deploy")

    assert f"waiting for stack {STACK}: UPDATE_IN_PROGRESS\n" in output
    assert ": no changes\n" in output
    assert f"waiting for {TABLE}, 0 min: undelivered-index CREATING" in output
    assert aws.looks_left == 0
    # as after a deletion that was interrupted
    protected = {"StackName": STACK, "EnableTerminationProtection": False}
    aws.direct("cloudformation").update_termination_protection(**protected)
    aws.replaced = {b"<StackStatus>UPDATE_COMPLETE": b"<StackStatus>DELETE_IN_PROGRESS"}
    aws.seen = lambda operation: (
        aws.replaced.clear() if operation.startswith("DeleteStack") else None
    )
    assert "Import  EventsTable" in resources(**GIVEN)


def test_no_function_is_deployed_onto_a_table_that_lacks_an_index(
    checkout: Checkout, resources: Command, aws: Ministack
) -> None:
    restored = table(RESTORED)
    restored["GlobalSecondaryIndexes"].pop()
    restored["AttributeDefinitions"].pop()
    aws.direct("dynamodb").create_table(**restored)
    checkout.set_variable("EVENTS_TABLE_NAME", RESTORED)

    output = checkout.make("deploy", **GIVEN, status=1)

    assert f"no function was deployed: the table {RESTORED} lacks undelivered-index" in output
    assert aws.direct("lambda").list_functions()["Functions"] == []
    assert f"the table {RESTORED} lacks undelivered-index" in resources(status=1)
    command = output[output.index("aws dynamodb") : output.index("make: ")]
    checkout.run(["bash", "-c", f"{install().with_name('aws')}{command.removeprefix('aws')}"], 0)
    assert "no changes" in resources("deploy")


@pytest.mark.parametrize(
    "place, tags, has_record, reason",
    [
        ("us-east-1", {"aws:cloudformation:stack-name": "one"}, True, "belong to: one"),
        ("us-east-1", {}, False, "no stage that `make deploy` created in us-east-1"),
        ("eu-west-1", {}, True, "name: eu-west-1"),
        ("eu-west-1", {}, False, "name: eu-west-1"),
    ],
)
def test_what_another_stack_or_region_has_is_left_alone(
    checkout: Checkout, aws: Ministack, place: str, tags: Json, has_record: bool, reason: str
) -> None:
    role = aws.direct("iam").create_role(
        RoleName="triggers-api-dev-worker", AssumeRolePolicyDocument="{}"
    )["Role"]["Arn"]
    function = aws.direct("lambda", place).create_function(
        FunctionName="triggers-api-dev-worker",
        Runtime=RUNTIME,
        Handler="app.worker",
        Role=role,
        Code={"ZipFile": EMPTY_ZIP},
        Tags=tags,
    )
    review = {"StackName": STACK, "ChangeSetName": "first", "ChangeSetType": "CREATE"}
    template = '{"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}}'
    aws.direct("cloudformation").create_change_set(**review, TemplateBody=template)
    if has_record:
        checkout.record.parent.mkdir()
        recorded = {"name": "worker", "lambda_arn": function["FunctionArn"]}
        checkout.record.write_text(json.dumps({"resources": [recorded]}))
    else:
        used = f"<RoleLastUsed><Region>{place}</Region></RoleLastUsed></Role>"
        aws.replaced = {b"</Role>": used.encode()}
    operations: list[str] = []
    aws.seen = operations.append

    assert reason in checkout.make("destroy", "CONFIRM=dev", status=1)
    if tags or place == "eu-west-1":
        assert reason in checkout.make("deploy", **GIVEN, status=1)

    assert [operation.split()[0] for operation in operations if is_write(operation)] == [
        "DeleteStack"
    ]
    assert not aws.direct("cloudformation").describe_stacks()["Stacks"]


def test_a_difference_is_named_without_its_values(resources: Command, aws: Ministack) -> None:
    alarms: Any = {"ALARM_URL": "https://alarms.example.com/s3cr3t", "QUIET_ALARM_HOURS": "24"}
    webhook = "https://hooks.zapier.com/hooks/catch/s3cr3t"
    secret, other_secret = (f"whsec_{character * 32}" for character in "ab")
    given = {**GIVEN, **alarms, "ZAPIER_WEBHOOK_URL": webhook, "WEBHOOK_SIGNING_SECRETS": secret}
    resources(**given, DASHBOARD="none")

    assert aws.client("cloudwatch").list_dashboards()["DashboardEntries"] == []
    assert "no changes" in resources(**given)
    oncall = api_key.entry("oncall", api_key.new_key())
    assert refused(resources, ZAPIER_WEBHOOK_URL=f"{webhook}/2", API_KEYS=oncall) == [
        "ZAPIER_WEBHOOK_URL: another value",
        "API_KEYS: + oncall",
    ]
    others = {"ZAPIER_WEBHOOK_URL": webhook.replace("hooks.", ""), "ALARM_URL": ""}
    secrets = {"WEBHOOK_SIGNING_SECRETS": other_secret, "QUIET_ALARM_HOURS": "0"}
    assert refused(resources, **others, **secrets, API_KEYS="", ALARM_EMAIL="a@example.com") == [
        "ZAPIER_WEBHOOK_URL: another host",
        "WEBHOOK_SIGNING_SECRETS: another value",
        "ALARM_EMAIL: another value",
        "ALARM_URL: removed",
        "QUIET_ALARM_HOURS: another value",
    ]
    more = {"SUSPENDED_TENANTS": "corp", "DASHBOARD": "default"}
    assert refused(resources, ZAPIER_WEBHOOK_URL="none", **more) == [
        "ZAPIER_WEBHOOK_URL: none",
        "SUSPENDED_TENANTS: + corp",
        "DASHBOARD: another value",
    ]
    resources("--go", SUSPENDED_TENANTS="corp,shop:7")
    assert "SUSPENDED_TENANTS" not in resources(SUSPENDED_TENANTS="shop:7, corp")
    named = "SUSPENDED_TENANTS: + acme, \N{MINUS SIGN} corp, \N{MINUS SIGN} shop:7"
    assert refused(resources, SUSPENDED_TENANTS="acme") == [named]


def test_one_key_is_taken_out_while_an_index_fills_and_the_others_stay(
    checkout: Checkout, resources: Command, aws: Ministack
) -> None:
    acme, twin, oncall = (
        api_key.entry(name, api_key.new_key()) for name in ("acme", "acme", "oncall")
    )
    oncall = f"person {oncall}"  # by hand: names may have spaces
    checkout.resources(**{**GIVEN, **ELSEWHERE, "API_KEYS": acme})
    said = resources("--go", API_KEYS=oncall)
    assert "API_KEYS: + person oncall\n" in said
    assert "not in API_KEYS, and kept: acme (to take them out: REMOVE_KEY='acme')\n" in said
    resources("--go", API_KEYS=f"{acme},{twin}")
    aws.looks_left = 1000  # an index fills

    for key, names in (("shop", 3), ("acme:ffffffffz", 3), (",", 3)):
        unknown = resources("--go", REMOVE_KEY=key, status=2)
        assert key in unknown
        assert len(re.findall(r"acme:\w{8}\b|oncall:\w{8}\b", unknown)) == names
    exported = {**ELSEWHERE, "API_KEYS": f"{acme}:consume,{twin}"}
    said = checkout.make("resources", f"REMOVE_KEY={acme[:13]}", "GO=1", **exported)

    assert said.startswith(PLACE)
    assert keys_in_use(aws) == {twin, oncall}
    # By a list from yesterday.
    said = resources("--go", API_KEYS=acme, REMOVE_KEY="person oncall, acme,")
    assert "kept" not in said
    assert keys_in_use(aws) == {acme}


def keys_in_use(aws: Ministack) -> set[str]:
    secret = aws.client("secretsmanager").get_secret_value(SecretId="triggers-api-dev-settings")
    [keys] = re.findall("^API_KEYS=(.*)", secret["SecretString"], re.MULTILINE)
    return {*keys.split(",")}


def test_what_a_checkout_would_change_of_live_functions_is_named_and_needs_go(
    checkout: Checkout, resources: Command, aws: Ministack
) -> None:
    own = {"STAGE": "dev", "SETTINGS_SECRET": "triggers-api-dev-settings"}
    restored = {**own, "EVENTS_TABLE_NAME": RESTORED, "DD_API_KEY": "s3cr3t"}
    role = aws.direct("iam").create_role(RoleName="any", AssumeRolePolicyDocument="{}")["Role"]
    for name in FUNCTIONS:
        # as after a deployment that was interrupted
        types = {"EVENT_TYPES": "a" if name == "triggers-api-dev-sweep" else "b"}
        aws.direct("lambda").create_function(
            FunctionName=name,
            Runtime=RUNTIME,
            Handler="app.worker",
            Role=role["Arn"],
            Code={"ZipFile": EMPTY_ZIP},
            Description="event_types.json",
            Environment={
                "Variables": {**restored, **types, "RES_OPTIONS": "of the version before"}
            },
            VpcConfig={"SubnetIds": ["subnet-2", "subnet-1"]},
            MemorySize=512,
            Timeout=50,
        )
        reserved = {"FunctionName": name, "ReservedConcurrentExecutions": 0}
        aws.direct("lambda").put_function_concurrency(**reserved)
    checkout.configure(lambda_memory_size=512, lambda_timeout=60)
    checkout.set_variable("EVENT_TYPES", "b")
    checkout.set_variable("MAX_DELIVERY_ATTEMPTS", "60")
    operations: list[str] = []
    aws.seen = operations.append

    output = checkout.make("deploy", **GIVEN, GO="1", status=1)  # not on the command line

    changes = {
        "lambda_timeout: 50 \N{RIGHTWARDS ARROW} 60",
        "reserved_concurrency: 0 \N{RIGHTWARDS ARROW} (not set)",
        f"EVENTS_TABLE_NAME: {RESTORED} \N{RIGHTWARDS ARROW} (not set)",
        "EVENT_TYPES: a \N{RIGHTWARDS ARROW} b",
        "DD_API_KEY: removed",
        "MAX_DELIVERY_ATTEMPTS: (not set) \N{RIGHTWARDS ARROW} 60",
        "subnet_ids: subnet-1 subnet-2 \N{RIGHTWARDS ARROW} (not set)",
        "event_types.json: removed",
    }
    assert {*re.findall("^  (.*: .*)", output, re.MULTILINE)} == changes
    assert "  EVENT_TYPES: a \N{RIGHTWARDS ARROW} b\n    of sweep\n" in output
    assert "nothing was changed. Keep the values on the left" in output
    assert "s3cr3t" not in output
    assert not any(map(is_write, operations))
    told = resources("deploy", "--go", **GIVEN)
    assert all(f"  {change}\n" in told for change in changes)
    both = checkout.resources("deploy", ALARM_EMAIL="other@example.com", status=1)
    assert "unset these variables" in both
    assert "Keep the values on the left" in both
    for name in FUNCTIONS:  # says nothing of a catalogue
        aws.direct("lambda").update_function_configuration(FunctionName=name, Description="by hand")
    # as a colleague has it, who pulled
    checkout.configure(
        subnet_ids=["subnet-1", "subnet-2"],
        environment_variables={**restored, "EVENT_TYPES": "b"},
        lambda_functions={"sweep": {"environment_variables": {"EVENT_TYPES": "a"}}},
        lambda_timeout=50,
        reserved_concurrency=0,
    )
    aws.direct("dynamodb").create_table(**table(RESTORED))
    assert "(not set)" not in checkout.resources("deploy")


def test_what_an_older_checkout_would_take_away_is_named(
    checkout: Checkout, resources: Command, aws: Ministack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A colleague has added a tag, a statement to each policy and an event type, and has given the
    worker more memory.
    """
    catalogue = checkout.path / "event_types.json"
    # The catalogue is a file of the package, which other tests read meanwhile.
    monkeypatch.setattr("tools.function_changes.CATALOGUE", catalogue)
    catalogue.write_text('{"order.created": {}, "order.paid": {}}')
    iam = aws.direct("iam")
    lambda_ = aws.direct("lambda")
    statement = {"Effect": "Allow", "Action": "ec2:*NetworkInterface", "Resource": "*"}
    for suffix in FUNCTION_SUFFIXES.values():
        part = suffix[1:] or "api_handler"
        name = f"triggers-api-dev-{part}"
        file = f"{part.replace('_', '-').replace('api-handler', 'api')}.json"
        policy = json.loads((checkout.path / ".chalice" / "policies" / "dev" / file).read_text())
        policy["Statement"].append(statement)
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]
        iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=json.dumps(policy))
        config = Config("dev", part, config_from_disk=CONFIG)
        lambda_.create_function(
            FunctionName=f"triggers-api-dev{suffix}",
            Runtime=RUNTIME,
            Handler="app.worker",
            Role=role["Arn"],
            Code={"ZipFile": EMPTY_ZIP},
            Description=describe_catalogue(),
            Environment={"Variables": config.environment_variables},
            MemorySize=1024 if part == "worker" else config.lambda_memory_size,
            Timeout=config.lambda_timeout,
            Tags={"aws-chalice": "1", "CostCenter": "42", "Environment": "dev"},
        )

    catalogue.write_text('{"order.created": {}}')
    output = resources("deploy", **GIVEN, status=2)

    assert re.findall("^ +(.*: .*|of .*)", output, re.MULTILINE) == [
        "tag CostCenter: 42 \N{RIGHTWARDS ARROW} (not set)",
        "event_types.json: another value",
        "policy: \N{MINUS SIGN} ec2:*NetworkInterface on *",
        "lambda_memory_size: 1024 \N{RIGHTWARDS ARROW} 512",
        "of worker",
    ]
    assert "Keep the values on the left" in output
    # The functions of version 1.0 do not say which catalogue they have.
    for name in FUNCTIONS:
        lambda_.update_function_configuration(FunctionName=name, Description="event_types.json")
    assert "event_types.json" not in resources("deploy", **GIVEN, status=2)
    catalogue.unlink()
    assert "event_types.json: removed" in resources("deploy", **GIVEN, status=2)


def test_an_older_checkout_does_not_change_what_a_newer_one_deployed(
    checkout: Checkout, resources: Command, aws: Ministack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("stage", "resources"):
        # A version that does not exist yet.
        monkeypatch.setattr(f"tools.{module}.__version__", "1.10.0")
    resources(**GIVEN)
    operations: list[str] = []
    aws.seen = operations.append

    for command in (["deploy"], ["resources"], ["destroy", "CONFIRM=dev"]):
        output = checkout.make(*command, status=1)
        assert "dev was deployed by version 1.10.0" in output
        assert "git checkout GOOD_COMMIT && git checkout @{-1} -- .chalice/deployed\n" in output
        assert "git checkout @{-1} -- .chalice/config.json .chalice/policies\n" in output
    assert not any(map(is_write, operations))
    resources()


def test_another_account_and_an_unknown_stage_are_refused_before_anything_is_called(
    checkout: Checkout, aws: Ministack
) -> None:
    checkout.record.parent.mkdir()
    arn = "arn:aws:lambda:us-east-1:999999999999:function:triggers-api-dev-worker"
    checkout.record.write_text(json.dumps({"resources": [{"name": "worker", "lambda_arn": arn}]}))

    for command in (["deploy"], ["resources"], ["destroy", "CONFIRM=dev"]):
        output = checkout.make(*command, **GIVEN, status=1)
        assert output.startswith(PLACE)
        assert "names functions of account 999999999999, and these" in output
    unknown = checkout.make("destroy", "STAGE=dve", "CONFIRM=dve", status=1)
    assert "STAGE is unusable: .chalice/config.json has dev and prod" in unknown
    empty = checkout.run([*MAKE[:-1], "resources"], 1, MAKEFLAGS="", STAGE="")
    assert "STAGE is unusable: .chalice/config.json has dev and prod" in empty
    checkout.set_variable("EVENT_TYPES", "a," * 2000 + "a")
    checkout.set_variable("MAX_DELIVERY_ATEMPTS", "3")
    checkout.set_variable("SETTINGS_SECRET", "triggers-api-prod-settings")
    checkout.record.unlink()
    for goal in ("deploy", "resources"):
        output = checkout.make(goal, **GIVEN, status=1)
        assert "shorten EVENT_TYPES" in output
        assert "MAX_DELIVERY_ATEMPTS is no setting: is MAX_DELIVERY_ATTEMPTS meant?" in output
        assert '"SETTINGS_SECRET": "triggers-api-prod-settings" is of another stage' in output
    assert list(checkout.record.parent.iterdir()) == []
    assert {call.service for call in aws.calls} == {"sts"}


def test_a_catalogue_with_a_fault_is_refused_before_anything_is_changed(
    checkout: Checkout, aws: Ministack
) -> None:
    operations: list[str] = []
    aws.seen = operations.append
    (checkout.path / "chalicelib" / "event_types.json").write_text('{"order.created": []}')

    output = checkout.make("deploy", **GIVEN, status=1)

    assert "event_types.json is unusable: it must be corrected in order.created: must" in output
    assert operations
    assert not any(map(is_write, operations))


def table(name: str) -> Json:
    """Return a table as it is restored from the stack's."""
    properties = read_template("dev")["Resources"]["EventsTable"]["Properties"]
    keys = ("BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
    return {key: properties[key] for key in keys} | {"TableName": name}


def refused(resources: Command, **variables: str) -> list[str]:
    """Return the differences for which `make resources` changes nothing."""
    output = resources(status=2, **variables)
    assert "s3cr3t" not in output
    return re.findall(r"^  ([A-Z_]+: .*)", output, re.MULTILINE)
