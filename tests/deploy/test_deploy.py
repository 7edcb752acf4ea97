"""`make resources`, `make deploy`, `chalice local` and `make destroy`, as processes in checkouts,
on ministack.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from chalice.local import LambdaEventConverter, RouteMatcher

from tests.support.checkout import Checkout, copy_repository, is_write
from tests.support.iam import is_allowed, requests_of
from tests.support.ministack import Ministack, install, ministack, without_metric_math
from tests.support.world import ROOT, Json, assert_has
from tools import api_key, gateway
from tools.stage import read_template

pytestmark = pytest.mark.timeout(300)

KEY = api_key.new_key()
NEW_KEY = api_key.new_key()
SIGNING_SECRET = "whsec_" + "c2VjcmV0" * 4
GIVEN: Any = {
    "ZAPIER_WEBHOOK_URL": "none",
    "API_KEYS": api_key.entry("acme", KEY),
    "ALARM_EMAIL": "ops@example.com",
}
FUNCTIONS = [
    "triggers-api-dev",
    "triggers-api-dev-check_dlq",
    "triggers-api-dev-slow_worker",
    "triggers-api-dev-sweep",
    "triggers-api-dev-worker",
]
STACK = "triggers-api-dev-resources"
TOPIC = "arn:aws:sns:us-east-1:000000000000:triggers-api-dev-dlq-alarm-topic"
RUNTIME = f"python3.{sys.version_info.minor}"
INBOX_ARN = "arn:aws:sqs:us-east-1:000000000000:triggers-api-dev-inbox-queue"
SLOW_ARN = INBOX_ARN.replace("inbox", "slow")
TABLE = "triggers-api-dev-events"
RESTORED = f"{TABLE}-restored"
CREATED_AT = "2026-11-25T00:00:00.000000Z"
SUBSCRIPTION = {
    "event_id": f"sub_{'0' * 32}",
    "status_shard": "subscription#acme",
    "sort_key": f"{CREATED_AT}#sub_{'0' * 32}",
    "created_by": "acme",
    "target_url": "https://hooks.zapier.com/hooks/standard/1",
    "event_types": json.dumps({"given": {"0": SIGNING_SECRET}}),
    "tenant": "acme",
    "lookup_key": "subscription",
}
EMPTY_ZIP = b"PK\5\6" + bytes(18)
BUSY = "If somebody else makes or updates this stage, wait until that is done"
REFUSED = """\
Error: nothing was changed. The environment has other settings than stack triggers-api-dev-resources
  API_KEYS: + acme, \N{MINUS SIGN} acme
  WEBHOOK_SIGNING_SECRETS: removed
  WORKER_MAX_CONCURRENCY: 5 \N{RIGHTWARDS ARROW} 7
Leave them as they are: unset these variables. Or apply them: GO=1 behind the same command.
"""
PLACE = "account 000000000000, region us-east-1, stage dev\n"
ELSEWHERE = {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "eu-west-1"}
EVENT = {"event_type": "order.created", "payload": {"order_id": "12345"}}


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ministack]:
    with ministack(tmp_path_factory.mktemp("ministack") / "log") as aws:
        yield aws


@pytest.fixture
def aws(emulated: Ministack) -> Ministack:
    emulated.reset()
    return emulated


@pytest.fixture
def checkout(tmp_path: Path, aws: Ministack) -> Checkout:
    path = tmp_path / "first"
    copy_repository(path)
    return Checkout(path, aws)


def test_a_stage_is_deployed_and_deleted_but_for_its_table(
    checkout: Checkout, aws: Ministack, tmp_path: Path
) -> None:
    assert "triggers-api-dev-inbox-queue" in checkout.chalice("deploy", status=1)
    first_time = "ZAPIER_WEBHOOK_URL and API_KEYS must be set, the first time only"
    assert first_time in checkout.resources(status=1)

    checkout.resources(**GIVEN, WEBHOOK_SIGNING_SECRETS=SIGNING_SECRET)
    checkout.chalice("deploy")
    deployed = what_is_deployed(aws)
    assert deployed["functions"] == FUNCTIONS
    assert len(deployed["roles"]) == len(FUNCTIONS)
    assert_has(
        deployed,
        sources={INBOX_ARN: (10, 5), SLOW_ARN: (10, 5)},
        rules=["triggers-api-dev-check_dlq-event", "triggers-api-dev-sweep-event"],
        variables=[{"RES_OPTIONS", "SETTINGS_SECRET", "STAGE"}] * len(FUNCTIONS),
    )
    [api_id] = deployed["apis"]
    assert post(aws, KEY) == 202

    url = f"https://{api_id}.execute-api.us-east-1.amazonaws.com/api"
    assert checkout.configure_api().splitlines()[-1] == f"export TRIGGERS_URL={url}"
    limits = aws.client("apigateway").get_stage(restApiId=api_id, stageName="api")["methodSettings"]
    public = dict.fromkeys(
        ("//GET", "/health/GET", "/health/HEAD", "/openapi.json/GET"),
        gateway.PUBLIC_CALLS_PER_SECOND,
    )
    rates = {path: limit["throttlingRateLimit"] for path, limit in limits.items()}
    batches = {"/events/batch/POST": gateway.BATCHES_PER_SECOND}
    assert rates == {"*/*": gateway.CALLS_PER_SECOND, **public, **batches}

    # the record of the stage was committed
    second = Checkout(shutil.copytree(checkout.path, tmp_path / "second"), aws)
    others: Any = {"API_KEYS": api_key.entry("acme", NEW_KEY), "WEBHOOK_SIGNING_SECRETS": ""}
    operations: list[str] = []
    aws.seen = operations.append
    # GO counts on the command line alone
    output = second.make("deploy", GO="1", WORKER_MAX_CONCURRENCY="7", **others, status=1)
    assert REFUSED in output
    assert not any(map(is_write, operations))
    output = second.make("resources", "GO=1", **others)
    assert re.findall(r"^  (\w+) +(\w+)", output, re.MULTILINE) == [("Modify", "Settings")]
    second.chalice("deploy")
    assert what_is_deployed(aws) == deployed
    assert post(aws, KEY) == 401
    assert post(aws, NEW_KEY) == 202

    second.chalice("delete")
    kept_table = "kept, for the next stack to adopt: the table triggers-api-dev-events"
    assert kept_table in second.resources("delete")
    absent = "there is no stack triggers-api-dev-resources in us-east-1\n"
    assert second.resources("delete") == f"{PLACE}{absent}"
    assert not any(what_is_deployed(aws).values())
    assert not aws.client("sqs").list_queues().get("QueueUrls")

    assert "Import  EventsTable" in checkout.resources(**GIVEN)  # the table is taken over
    assert aws.client("dynamodb").scan(TableName=TABLE)["Count"] == 2

    with checkout.local() as port:
        url = f"http://127.0.0.1:{port}/events"
        posted = urllib3.request("POST", url, json=EVENT, headers=headers(KEY), timeout=20)
        assert posted.status == 202


def test_make_deploys_although_api_gateway_makes_it_wait(
    checkout: Checkout, aws: Ministack
) -> None:
    aws.deployment_seconds = 5.5
    operations: list[str] = []
    aws.seen = operations.append

    (checkout.path / "chalicelib" / "event_types.json").write_text("{}")
    alarms: Any = {"ALARM_URL": "https://alarms.example.com/s3cr3t", "QUIET_ALARM_HOURS": "24"}
    output = checkout.make("deploy", **GIVEN, **alarms)

    assert "s3cr3t" not in output
    subscribed = aws.client("sns").list_subscriptions_by_topic(TopicArn=TOPIC)["Subscriptions"]
    assert {each["Protocol"] for each in subscribed} == {"email", "https"}
    [alarm] = aws.client("cloudwatch").describe_alarms(AlarmNames=["triggers-api-dev-quiet-alarm"])[
        "MetricAlarms"
    ]
    assert alarm["EvaluationPeriods"] == 24
    assert f"the functions run on {RUNTIME}" in output
    [api_id] = what_is_deployed(aws)["apis"]
    stage = f"PATCH /restapis/{api_id}/stages/api 200"
    deployment = f"POST /restapis/{api_id}/deployments 201"
    assert [seen for seen in operations if seen in (stage, deployment)] == [
        deployment,
        stage,
        deployment,
    ]
    assert "API Gateway takes one deployment in 5 seconds" in output
    assert_is_configured(aws, api_id)
    client = aws.client("lambda")
    for name in FUNCTIONS:
        assert client.get_function_recursion_config(FunctionName=name)["RecursiveLoop"] == "Allow"
        function = client.get_function_configuration(FunctionName=name)
        assert_has(
            function,
            LoggingConfig=function["LoggingConfig"] | gateway.LOGGING,
            Description="event_types.json",
        )
        invoked = client.get_function_event_invoke_config(FunctionName=name)
        assert invoked.items() >= gateway.ONCE.items()
    stacks = aws.client("cloudformation").describe_stacks()["Stacks"]
    assert [stack["EnableTerminationProtection"] for stack in stacks] == [True]

    # The Python of deployed functions changes on request alone.
    client.update_function_configuration(
        FunctionName=FUNCTIONS[0], Runtime="python3.10", Description="by hand"
    )
    operations.clear()
    output = checkout.make("deploy", status=1)
    assert f"RUNTIME names, python3.10 and {RUNTIME}, and .venv has {RUNTIME}" in output
    assert f"make deploy STAGE=dev RUNTIME={RUNTIME}" in output
    assert not any(map(is_write, operations))

    # The API is gone, as after a `make destroy` that was cut off, and Lambda has not done yet.
    aws.direct("apigateway").delete_rest_api(restApiId=api_id)
    aws.deployment_seconds = 0
    aws.unfinished = set(FUNCTIONS)
    output = checkout.make("deploy", f"RUNTIME={RUNTIME}")
    assert "which Lambda has not finished" in output
    [api_id] = what_is_deployed(aws)["apis"]
    policy = json.loads(client.get_policy(FunctionName=FUNCTIONS[0])["Policy"])
    assert [api_id in json.dumps(statement) for statement in policy["Statement"]] == [True]
    assert_is_configured(aws, api_id)
    assert_has(
        client.get_function_configuration(FunctionName=FUNCTIONS[0]),
        Runtime=RUNTIME,
        Description="by hand",
    )

    # It is destroyed on confirmation alone.
    for arguments in ([], ["CONFIRM=prod"]):
        output = checkout.make("destroy", *arguments, status=1)
        assert "make destroy STAGE=dev CONFIRM=dev" in output
        assert "aws secretsmanager get-secret-value --secret-id triggers-api-dev-settings" in output
    assert what_is_deployed(aws)["functions"] == FUNCTIONS
    checkout.make("destroy", "CONFIRM=dev")
    assert aws.client("cloudformation").describe_stacks()["Stacks"] == []
    absent = checkout.configure_api(status=1)
    assert "Error: there is no API triggers-api-dev in us-east-1" in absent


def test_an_index_that_is_added_can_be_read_when_resources_ends(
    checkout: Checkout, aws: Ministack
) -> None:
    template = read_template("dev")
    properties = template["Resources"]["EventsTable"]["Properties"]
    del properties["GlobalSecondaryIndexes"][3:]
    del properties["AttributeDefinitions"][5:]
    text = without_metric_math(json.dumps(template))
    parameters = {"ZapierWebhookUrl": "none", "ApiKeys": ""}
    aws.create_stack(STACK, text, parameters)
    aws.looks_left = aws.index_looks = 2

    output = checkout.resources()

    before, after = re.findall(rf"waiting for {TABLE}, 0 min: (.*)", output)
    assert (before, after) == ("tenant-index CREATING", "undelivered-index CREATING")
    assert aws.looks_left == 0
    # as after a run that was interrupted
    aws.looks_left = 2
    aws.replaced = {b"<StackStatus>UPDATE_COMPLETE": b"<StackStatus>UPDATE_IN_PROGRESS"}
    aws.seen = lambda operation: (
        aws.replaced.clear() if operation.startswith("DescribeStacks") else None
    )
    output = checkout.resources("deploy")

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
    assert "Import  EventsTable" in checkout.resources(**GIVEN)


def test_no_function_is_deployed_onto_a_table_that_lacks_an_index(
    checkout: Checkout, aws: Ministack
) -> None:
    restored = table(RESTORED)
    restored["GlobalSecondaryIndexes"].pop()
    restored["AttributeDefinitions"].pop()
    aws.direct("dynamodb").create_table(**restored)
    checkout.set_variable("EVENTS_TABLE_NAME", RESTORED)

    output = checkout.make("deploy", **GIVEN, status=1)

    assert f"no function was deployed: the table {RESTORED} lacks undelivered-index" in output
    assert what_is_deployed(aws)["functions"] == []
    assert f"the table {RESTORED} lacks undelivered-index" in checkout.resources(status=1)
    command = output[output.index("aws dynamodb") : output.index("make: ")]
    checkout.run(["bash", "-c", f"{install().with_name('aws')}{command.removeprefix('aws')}"], 0)
    assert "no changes" in checkout.resources("deploy")


@pytest.mark.parametrize(
    "place, tags, has_record, reason",
    [
        ("us-east-1", {"aws:cloudformation:stack-name": "one"}, True, "belong to: one"),
        ("us-east-1", {}, False, "no stage that `make deploy` made in us-east-1"),
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


def test_a_difference_is_named_without_its_values(checkout: Checkout, aws: Ministack) -> None:
    alarms: Any = {"ALARM_URL": "https://alarms.example.com/s3cr3t", "QUIET_ALARM_HOURS": "24"}
    webhook = "https://hooks.zapier.com/hooks/catch/s3cr3t"
    secret, other_secret = (f"whsec_{character * 32}" for character in "ab")
    given = {**GIVEN, **alarms, "ZAPIER_WEBHOOK_URL": webhook, "WEBHOOK_SIGNING_SECRETS": secret}
    checkout.resources(**given, DASHBOARD="none")

    assert aws.client("cloudwatch").list_dashboards()["DashboardEntries"] == []
    assert "no changes" in checkout.resources(**given)
    oncall = api_key.entry("oncall", NEW_KEY)
    assert refused(checkout, ZAPIER_WEBHOOK_URL=f"{webhook}/2", API_KEYS=oncall) == [
        "ZAPIER_WEBHOOK_URL: another value",
        "API_KEYS: + oncall",
    ]
    others = {"ZAPIER_WEBHOOK_URL": webhook.replace("hooks.", ""), "ALARM_URL": ""}
    secrets = {"WEBHOOK_SIGNING_SECRETS": other_secret, "QUIET_ALARM_HOURS": "0"}
    assert refused(checkout, **others, **secrets, API_KEYS="", ALARM_EMAIL="a@example.com") == [
        "ZAPIER_WEBHOOK_URL: another host",
        "WEBHOOK_SIGNING_SECRETS: another value",
        "ALARM_EMAIL: another value",
        "ALARM_URL: removed",
        "QUIET_ALARM_HOURS: another value",
    ]
    assert checkout.status == 2
    more = {"SUSPENDED_TENANTS": "corp", "DASHBOARD": "default"}
    assert refused(checkout, ZAPIER_WEBHOOK_URL="none", **more) == [
        "ZAPIER_WEBHOOK_URL: none",
        "SUSPENDED_TENANTS: + corp",
        "DASHBOARD: another value",
    ]
    checkout.resources("--go", SUSPENDED_TENANTS="corp,shop:7")
    assert "SUSPENDED_TENANTS" not in checkout.resources(SUSPENDED_TENANTS="shop:7, corp")
    named = "SUSPENDED_TENANTS: + acme, \N{MINUS SIGN} corp, \N{MINUS SIGN} shop:7"
    assert refused(checkout, SUSPENDED_TENANTS="acme") == [named]


def test_one_key_is_taken_out_while_an_index_fills_and_the_others_stay(
    checkout: Checkout, aws: Ministack
) -> None:
    acme, twin, oncall = (
        api_key.entry(name, api_key.new_key()) for name in ("acme", "acme", "oncall")
    )
    oncall = f"person {oncall}"  # by hand: names may have spaces
    checkout.account |= ELSEWHERE
    checkout.resources(**{**GIVEN, "API_KEYS": acme})
    said = checkout.resources("--go", API_KEYS=oncall)
    assert "API_KEYS: + person oncall\n" in said
    assert "not in API_KEYS, and kept: acme (to take them out: REMOVE_KEY='acme')\n" in said
    checkout.resources("--go", API_KEYS=f"{acme},{twin}")
    aws.looks_left = 1000  # an index fills

    for key, names in (("shop", 3), ("acme:ffffffffz", 3), (",", 3)):
        unknown = checkout.resources("--go", REMOVE_KEY=key, status=1)
        assert checkout.status == 2
        assert key in unknown
        assert len(re.findall(r"acme:\w{8}\b|oncall:\w{8}\b", unknown)) == names
    assert refused(checkout, REMOVE_KEY="acme") == [
        "API_KEYS: \N{MINUS SIGN} acme, \N{MINUS SIGN} acme"
    ]
    said = checkout.make("resources", f"REMOVE_KEY={acme[:13]}", "GO=1")

    assert said.startswith(PLACE)
    assert keys_in_use(aws) == {twin, oncall}
    # By a list from yesterday.
    said = checkout.resources("--go", API_KEYS=acme, REMOVE_KEY="person oncall")
    assert "kept" not in said
    assert keys_in_use(aws) == {acme}


def keys_in_use(aws: Ministack) -> set[str]:
    secret = aws.client("secretsmanager").get_secret_value(SecretId="triggers-api-dev-settings")
    [keys] = re.findall("^API_KEYS=(.*)", secret["SecretString"], re.MULTILINE)
    return {*keys.split(",")}


def test_what_a_checkout_would_change_of_live_functions_is_named_and_needs_go(
    checkout: Checkout, aws: Ministack
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
    assert "nothing was changed. Keep the values on the left" in output
    assert "s3cr3t" not in output
    assert not any(map(is_write, operations))
    told = checkout.resources("deploy", "--go", **GIVEN)
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


def test_two_laptops_on_one_new_stage_end_in_a_sentence(
    checkout: Checkout, aws: Ministack, tmp_path: Path
) -> None:
    other = Checkout(shutil.copytree(checkout.path, tmp_path / "other", symlinks=True), aws)

    def meanwhile(act: Callable[..., str], operation: str) -> None:
        def look(seen: str) -> None:
            if seen.startswith(operation):
                aws.seen = lambda _: None
                act("deploy", **GIVEN)

        aws.seen = look

    meanwhile(other.resources, "CreateChangeSet")
    assert BUSY in checkout.make("deploy", **GIVEN, status=1)
    meanwhile(other.make, "POST /2015-03-31/functions ")
    output = checkout.make("deploy", status=1)

    assert "Traceback" not in output
    assert "\nIf somebody else deploys this stage, wait until that is done.\n" in output
    checkout.make("deploy")
    assert len(what_is_deployed(aws)["apis"]) == 1


def test_what_aws_denies_while_functions_are_deployed_is_named(
    checkout: Checkout, aws: Ministack
) -> None:
    denied = {"Effect": "Deny", "Action": "lambda:CreateFunction", "Resource": "*"}
    allowed = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    policy = {"Version": "2012-10-17", "Statement": [allowed, denied]}
    iam = aws.direct("iam")
    iam.create_user(UserName="deployer")
    document = json.dumps(policy)
    iam.put_user_policy(UserName="deployer", PolicyName="deployer", PolicyDocument=document)
    key = iam.create_access_key(UserName="deployer")["AccessKey"]
    checkout.account["AWS_ACCESS_KEY_ID"] = key["AccessKeyId"]
    checkout.account["AWS_SECRET_ACCESS_KEY"] = key["SecretAccessKey"]

    output = checkout.make("deploy", **GIVEN, status=1)

    assert "\nAWS denied lambda:CreateFunction to these credentials" in output
    assert "somebody else" not in output


def test_an_older_checkout_does_not_change_what_a_newer_one_deployed(
    checkout: Checkout, aws: Ministack, tmp_path: Path
) -> None:
    newer = Checkout(shutil.copytree(checkout.path, tmp_path / "newer", symlinks=True), aws)
    (newer.path / "chalicelib" / "__init__.py").write_text('__version__ = "1.10.0"')
    newer.resources(**GIVEN)
    operations: list[str] = []
    aws.seen = operations.append

    for command in (["deploy"], ["resources"], ["destroy", "CONFIRM=dev"]):
        output = checkout.make(*command, status=1)
        assert "dev was deployed by version 1.10.0" in output
        assert "git checkout GOOD_COMMIT && git checkout @{-1} -- .chalice/deployed\n" in output
    assert not any(map(is_write, operations))
    newer.resources()


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


def test_the_policy_of_the_deployer_allows_what_commands_call(
    checkout: Checkout, aws: Ministack
) -> None:
    policy, oncall = (
        json.loads((ROOT / "docs" / f"{name}-policy.json").read_text())
        for name in ("deployer", "oncall")
    )
    assert len(json.dumps(policy, separators=(",", ":"))) <= 6144  # of a managed policy
    checkout.account |= ELSEWHERE
    dynamodb = aws.direct("dynamodb")
    item = {name: {"S": text} for name, text in SUBSCRIPTION.items()}
    for _ in range(2):
        checkout.make("deploy", **GIVEN, WEBHOOK_SIGNING_SECRETS=SIGNING_SECRET)
        dynamodb.put_item(TableName=TABLE, Item=item)
        checkout.record.write_text("{")  # as if it had been killed there
    sources = aws.direct("lambda").list_event_source_mappings()["EventSourceMappings"]
    functions = {source["UUID"]: source["FunctionArn"] for source in sources}
    dynamodb.restore_table_to_point_in_time(
        SourceTableName=TABLE, TargetTableName=RESTORED, UseLatestRestorableTime=True
    )
    dynamodb.delete_item(TableName=TABLE, Key={"event_id": item["event_id"]})
    checkout.set_variable("EVENTS_TABLE_NAME", RESTORED)
    sqs = aws.direct("sqs")
    dlq = sqs.get_queue_url(QueueName="triggers-api-dev-inbox-dlq")["QueueUrl"]
    letter = {"event_id": "cpy_1", "subscription_id": SUBSCRIPTION["event_id"]}
    sqs.send_message(QueueUrl=dlq, MessageBody=json.dumps(letter))

    first = len(aws.calls)
    assert re.match(f"{PLACE}.*\n.*cpy_1", checkout.make("dlq"))
    assert re.match(f"{PLACE}.* moved", checkout.make("redrive"))
    checkout.make("resources", "REMOVE_KEY=acme", "GO=1")
    exported_to = checkout.path / "subscriptions.jsonl"
    on_call = [request for call in aws.calls[first:] for request in requests_of(call, functions)]
    export = "make -o .venv/.set-up STAGE=dev export-subscriptions > subscriptions.jsonl"
    checkout.run(["bash", "-c", export], 0, MAKEFLAGS="")
    exported = json.loads(exported_to.read_text())
    assert exported_to.stat().st_mode & 0o777 == 0o600
    assert "stack deleted" in checkout.make("destroy", "CONFIRM=dev")

    target_url = SUBSCRIPTION["target_url"]
    assert_has(exported, target_url=target_url, tenant="acme", secret=SIGNING_SECRET)
    asked = [request for call in aws.calls for request in requests_of(call, functions)]
    assert [request for request in asked if not is_allowed(policy, request)] == []
    assert [request for request in on_call if not is_allowed(oncall, request)] == []
    deploying = [request.action for request in asked if not is_allowed(oncall, request)]
    assert {"lambda:UpdateFunctionCode", "iam:PutRolePolicy"} <= {*deploying}
    regions = {call.region for call in aws.calls if call.service != "iam"}  # which has no region
    assert regions == {"us-east-1"}


def table(name: str) -> Json:
    """Return a table as it is restored from the stack's."""
    properties = read_template("dev")["Resources"]["EventsTable"]["Properties"]
    keys = ("BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
    return {key: properties[key] for key in keys} | {"TableName": name}


def refused(checkout: Checkout, **variables: str) -> list[str]:
    """Return the differences for which `make resources` changes nothing."""
    output = checkout.resources(status=1, **variables)
    assert "s3cr3t" not in output
    return re.findall(r"^  ([A-Z_]+: .*)", output, re.MULTILINE)


def assert_is_configured(aws: Ministack, api_id: str) -> None:
    """Check what API Gateway says itself, and how the bill of the API can be found."""
    unknown = urllib3.request(
        "GET", f"{aws.api_url(api_id)}/nothing", headers=headers(KEY), retries=False
    )
    assert unknown.status == 404
    assert unknown.headers["Content-Type"] == "application/problem+json"
    assert unknown.json()["code"] == "not_found"
    assert KEY not in unknown.data.decode()
    client = aws.client("apigateway")
    api = {"restApiId": api_id, "responseType": "INTEGRATION_FAILURE"}
    throttled = client.get_gateway_response(**api)
    assert throttled["statusCode"] == "503"
    assert throttled["responseParameters"]["gatewayresponse.header.Retry-After"] == "'1'"
    for path in ("", "/stages/api"):
        arn = f"arn:aws:apigateway:us-east-1::/restapis/{api_id}{path}"
        tags = client.get_tags(resourceArn=arn)["tags"]
        assert tags == {"Service": "triggers-api", "Environment": "dev"}


def what_is_deployed(aws: Ministack) -> Json:
    """Return what `chalice deploy` creates, by kind."""
    functions = aws.client("lambda").list_functions()["Functions"]
    sources = aws.client("lambda").list_event_source_mappings()["EventSourceMappings"]
    return {
        "functions": sorted(function["FunctionName"] for function in functions),
        "roles": sorted(role["RoleName"] for role in aws.client("iam").list_roles()["Roles"]),
        "sources": {
            each["EventSourceArn"]: (each["BatchSize"], each["ScalingConfig"]["MaximumConcurrency"])
            for each in sources
        },
        "rules": sorted(rule["Name"] for rule in aws.client("events").list_rules()["Rules"]),
        "apis": [api["id"] for api in aws.client("apigateway").get_rest_apis()["items"]],
        "variables": [set(function["Environment"]["Variables"]) for function in functions],
    }


def headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}


def post(aws: Ministack, key: str) -> Any:
    """Return the status of POST /events; the API's function is invoked, for ministack ignores what
    is imported.
    """
    converter = LambdaEventConverter(RouteMatcher(["/events"]))
    request = converter.create_lambda_event("POST", "/events", headers(key)) | {
        "body": json.dumps(EVENT)
    }
    response = aws.client("lambda").invoke(
        FunctionName="triggers-api-dev", Payload=json.dumps(request)
    )
    return json.load(response["Payload"])["statusCode"]
