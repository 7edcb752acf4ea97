"""`make resources`, `make deploy`, `chalice local` and `make destroy`, as processes in checkouts,
on ministack.
"""

import base64
import hmac
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import urllib3
from chalice.local import LambdaEventConverter, RouteMatcher

from tests.support.ministack_process import free_port, without_metric_math
from tests.support.ministack_proxy import Ministack, ministack
from tests.support.world import ROOT, Json
from tools import api_key, gateway
from tools.resources import NOBODY
from tools.stage import read_template

pytestmark = pytest.mark.timeout(300)

CHALICE = str(Path(sys.executable).with_name("chalice"))
KEY, NEW_KEY = api_key.new_key(), api_key.new_key()
WEBHOOK_URL = "https://hooks.example.com/hooks/catch/123/s3cr3t"
SIGNING_SECRET = "whsec_" + "c2VjcmV0" * 4
GIVEN = {
    "ZAPIER_WEBHOOK_URL": "none",
    "API_KEYS": api_key.entry("acme", KEY),
    "ALARM_EMAIL": "ops@example.com",
}
FUNCTIONS = [
    "triggers-api-dev",
    "triggers-api-dev-check_dlq",
    "triggers-api-dev-sweep",
    "triggers-api-dev-worker",
]
OURS = (
    "PYTHONPYCACHEPREFIX|AWS_|API_KEYS|ZAPIER_|WEBHOOK_|ALARM_|STAGE|SETTINGS_|EVENTS_|"
    "INBOX_|WORKER_"
)
TOPIC = "arn:aws:sns:us-east-1:000000000000:triggers-api-dev-dlq-alarm-topic"
RUNTIME = f"python3.{sys.version_info.minor}"
INBOX_ARN = "arn:aws:sqs:us-east-1:000000000000:triggers-api-dev-inbox-queue"
TABLE, SUBSCRIPTION = "triggers-api-dev-events", f"sub_{'0' * 32}"
EVENT = {"event_type": "order.created", "payload": {"order_id": "12345"}}


class Checkout:
    """A clone of the repository."""

    def __init__(self, path: Path, aws: Ministack) -> None:
        self.path = path
        self.aws = aws
        # the root user
        self.account = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}

    def make(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """Run make with the .venv of the repository."""
        command = ["make", "--old-file=.venv/.set-up", *arguments, "STAGE=dev"]
        return self._run(command, {"MAKEFLAGS": "", **variables}, "")

    def resources(self, *arguments: str, stop_after: str = "", **variables: str) -> tuple[int, str]:
        return self._run(
            [sys.executable, "-m", "tools.resources", "dev", *arguments], variables, stop_after
        )

    def configure_api(self) -> tuple[int, str]:
        return self._run([sys.executable, "-m", "tools.gateway", "dev"], {}, "")

    def chalice(self, command: str, stop_after: str = "") -> tuple[int, str]:
        return self._run([CHALICE, command, "--stage", "dev"], {}, stop_after)

    @contextmanager
    def local(self) -> Iterator[int]:
        """Run `chalice local`; yield its port once it listens."""
        port = free_port()
        command = [CHALICE, "local", "--stage", "dev", "--port", str(port)]
        with subprocess.Popen(
            command, cwd=self.path, env=self.environ(), start_new_session=True
        ) as process:
            try:
                tries = urllib3.Retry(connect=60, backoff_factor=0.1, backoff_max=1)
                urllib3.request("GET", f"http://127.0.0.1:{port}/health", retries=tries, timeout=20)
                yield port
            finally:
                os.killpg(process.pid, signal.SIGTERM)

    def environ(self, **variables: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not re.match(OURS, name)}
        aws = {**self.account, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": self.aws.url}
        return {**inherited, **aws, **variables}

    def _run(
        self, command: list[str], variables: dict[str, str], stop_after: str
    ) -> tuple[int, str]:
        """Return exit status and output; kill the process once a request that matches `stop_after`
        was served.
        """
        options: Any = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(
            command, cwd=self.path, env=self.environ(**variables), **options
        ) as process:
            if stop_after:
                self.aws.seen = lambda operation: (
                    process.kill() if re.match(stop_after, operation) else None
                )
            try:
                output, _ = process.communicate(timeout=120)
            finally:
                process.kill()
                if stop_after:
                    self.aws.seen = lambda operation: None
        return process.returncode, output


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
    path.mkdir()
    # by other tests meanwhile, or by a user
    written = shutil.ignore_patterns("__pycache__", "deployments", "deployed")
    for name in ("app.py", "requirements.txt", "Makefile"):
        shutil.copy(ROOT / name, path)
    (path / "resources.json").write_text(without_metric_math((ROOT / "resources.json").read_text()))
    (path / ".venv").symlink_to(sys.prefix)
    for name in ("chalicelib", "tools", ".chalice"):
        shutil.copytree(ROOT / name, path / name, ignore=written)
    return Checkout(path, aws)


def test_a_stage_is_deployed_and_deleted_but_for_its_table(
    checkout: Checkout, aws: Ministack, tmp_path: Path
) -> None:
    status, output = checkout.chalice("deploy")
    assert status != 0
    assert "triggers-api-dev-inbox-queue" in output
    status, output = checkout.resources()
    assert (
        status,
        "ZAPIER_WEBHOOK_URL and API_KEYS must be set, the first time only" in output,
    ) == (1, True)

    assert checkout.resources(**GIVEN, WEBHOOK_SIGNING_SECRETS=SIGNING_SECRET)[0] == 0
    for operation in ("POST /2015-03-31/event-source-mappings", "POST /restapis"):
        assert checkout.chalice("deploy", stop_after=operation)[0] == -signal.SIGKILL
        assert "stack triggers-api-dev-resources: no changes\n" in checkout.resources()[1]
    status, output = checkout.chalice("deploy")
    assert status == 0, output
    deployed = what_is_deployed(aws)
    sources = [(INBOX_ARN, 10, {"MaximumConcurrency": 5})]
    assert [deployed["functions"], len(deployed["roles"]), deployed["sources"]] == [
        FUNCTIONS,
        4,
        sources,
    ]
    assert deployed["rules"] == ["triggers-api-dev-check_dlq-event", "triggers-api-dev-sweep-event"]
    assert deployed["variables"] == [{"RES_OPTIONS", "SETTINGS_SECRET", "STAGE"}] * 4
    [api_id] = deployed["apis"]
    assert post(aws, KEY) == 202

    url = f"https://{api_id}.execute-api.us-east-1.amazonaws.com/api"
    assert checkout.configure_api()[1].splitlines()[-1] == f"export TRIGGERS_URL={url}"
    assert unknown_path(aws, api_id) == (404, "application/problem+json", "not_found")
    limits = aws.client("apigateway").get_stage(restApiId=api_id, stageName="api")["methodSettings"]
    public = dict.fromkeys(
        ("//GET", "/health/GET", "/openapi.json/GET"), gateway.PUBLIC_CALLS_PER_SECOND
    )
    rates = {path: limit["throttlingRateLimit"] for path, limit in limits.items()}
    assert rates == {"*/*": gateway.CALLS_PER_SECOND, **public}

    # the record of the stage was committed
    second = Checkout(shutil.copytree(checkout.path, tmp_path / "second"), aws)
    status, output = second.resources(
        API_KEYS=api_key.entry("acme", NEW_KEY), WEBHOOK_SIGNING_SECRETS=""
    )
    taken = "taken from the environment: API_KEYS, WEBHOOK_SIGNING_SECRETS (empty)\n"
    assert (status, taken in output) == (0, True)
    assert [line.split()[:2] for line in output.splitlines() if line.startswith("  ")] == [
        ["Modify", "Settings"]
    ]
    status, output = second.chalice("deploy")
    assert status == 0, output
    assert what_is_deployed(aws) == deployed
    assert (post(aws, KEY), post(aws, NEW_KEY)) == (401, 202)

    record = second.path / ".chalice" / "deployed" / "dev.json"
    kept = record.rename(tmp_path / "record")
    assert second.chalice("delete")[0] == 0  # deletes nothing
    kept.rename(record)

    assert second.chalice("delete")[0] == 0
    status, output = second.resources("delete")
    assert (
        status,
        "kept, for the next stack to adopt: the table triggers-api-dev-events" in output,
    ) == (0, True)
    assert second.resources("delete") == (
        0,
        "there is no stack triggers-api-dev-resources in us-east-1\n",
    )
    assert {kind: found for kind, found in what_is_deployed(aws).items() if found} == {}
    assert aws.client("sqs").list_queues().get("QueueUrls", []) == []

    status, output = checkout.resources(**GIVEN)  # the next stack takes the table over
    assert status == 0, output
    assert "Import  EventsTable" in output
    assert aws.client("dynamodb").scan(TableName="triggers-api-dev-events")["Count"] == 2

    with checkout.local() as port:
        url = f"http://127.0.0.1:{port}/events"
        assert (
            urllib3.request("POST", url, json=EVENT, headers=headers(KEY), timeout=20).status == 202
        )


def test_make_deploys_although_api_gateway_makes_it_wait(
    checkout: Checkout, aws: Ministack
) -> None:
    checkout.account = deployer(aws)
    aws.deployment_seconds = 5.5
    operations: list[str] = []
    aws.seen = operations.append

    status, output = checkout.make("deploy", **GIVEN)

    assert status == 0, output
    assert f"the functions run on {RUNTIME}" in output
    [api_id] = what_is_deployed(aws)["apis"]
    stage, deployments = (
        f"PATCH /restapis/{api_id}/stages/api 200",
        f"POST /restapis/{api_id}/deployments",
    )
    in_order = [operation for operation in operations if operation in (stage, f"{deployments} 201")]
    assert in_order == [f"{deployments} 201", stage, f"{deployments} 201"]
    assert f"{deployments} 429" in operations
    assert "API Gateway takes one deployment in 5 seconds" in output
    client = aws.client("lambda")
    for name in FUNCTIONS:
        assert client.get_function_recursion_config(FunctionName=name)["RecursiveLoop"] == "Allow"
        assert (
            client.get_function_configuration(FunctionName=name)["LoggingConfig"].items()
            >= gateway.LOGGING.items()
        )
        assert (
            client.get_function_event_invoke_config(FunctionName=name).items()
            >= gateway.ONCE.items()
        )
    [stack] = aws.client("cloudformation").describe_stacks()["Stacks"]
    assert stack["EnableTerminationProtection"]

    # The Python of deployed functions changes on request alone.
    client.update_function_configuration(FunctionName=FUNCTIONS[0], Runtime="python3.10")
    operations.clear()
    status, output = checkout.make("deploy")
    assert status != 0
    assert (
        f"the functions of dev have, or RUNTIME names, python3.10 and {RUNTIME}, and .venv "
        f"has {RUNTIME}"
    ) in output
    assert f"make deploy STAGE=dev RUNTIME={RUNTIME}" in output
    assert {operation.split()[0] for operation in operations} == {"GET", "GetCallerIdentity"}
    status, output = checkout.make("deploy", f"RUNTIME={RUNTIME}")
    assert status == 0, output
    assert client.get_function_configuration(FunctionName=FUNCTIONS[0])["Runtime"] == RUNTIME

    # It is destroyed on confirmation alone.
    for arguments in ([], ["CONFIRM=prod"]):
        status, output = checkout.make("destroy", *arguments)
        assert status != 0
        assert "make destroy STAGE=dev CONFIRM=dev" in output
        assert "aws secretsmanager get-secret-value --secret-id triggers-api-dev-settings" in output
    assert len(what_is_deployed(aws)["functions"]) == 4
    status, output = checkout.make("destroy", "CONFIRM=dev")
    assert status == 0, output
    assert aws.client("cloudformation").describe_stacks()["Stacks"] == []
    status, output = checkout.configure_api()
    assert (
        status,
        output.strip().startswith("Error: there is no API triggers-api-dev in us-east-1"),
    ) == (1, True)


FAILED_STACK = {
    b"<StackStatus>CREATE_COMPLETE": b"<StackStatus>ROLLBACK_COMPLETE",
    b"<ResourceStatus>CREATE_COMPLETE": b"<ResourceStatus>CREATE_FAILED",
}
TAKEN_NAME = {
    b"<Status>CREATE_COMPLETE": b"<Status>FAILED",
    b"<StatusReason>": b"<StatusReason>AWS::EarlyValidation::ResourceExistenceCheck",
}


WHY = [
    (FAILED_STACK, "Error: ROLLBACK_COMPLETE: ApiLogs: "),
    (TAKEN_NAME, "Something has a name of this stage already"),
]


@pytest.mark.parametrize(("replaced", "words"), WHY)
def test_a_failed_stack_is_explained(
    checkout: Checkout, aws: Ministack, replaced: Any, words: str
) -> None:
    aws.replaced = replaced

    status, output = checkout.resources(**GIVEN)

    assert (status, words in output) == (1, True)


UNUSABLE = {**GIVEN, "ZAPIER_WEBHOOK_URL": WEBHOOK_URL.replace("https", "http"), "API_KEYS": "acme"}


def test_what_is_unusable_is_one_line_without_the_values(
    checkout: Checkout, aws: Ministack
) -> None:
    status, output = checkout.resources(**UNUSABLE)

    assert (status, output.count("\n"), "s3cr3t" in output) == (1, 1, False)
    assert all(
        f"{name} is unusable: it must " in output for name in ("ZAPIER_WEBHOOK_URL", "API_KEYS")
    )
    assert aws.client("cloudformation").describe_stacks()["Stacks"] == []


SUBSCRIPTION_INDEX = {
    "IndexName": "subscription-index",
    "KeySchema": [
        {"AttributeName": name, "KeyType": kind}
        for name, kind in (("subscription_id", "HASH"), ("sort_key", "RANGE"))
    ],
    "Projection": {
        "ProjectionType": "INCLUDE",
        "NonKeyAttributes": ["status_shard", "delivery_attempts"],
    },
}
TARGET_URL = "https://hooks.zapier.com/hooks/standard/1"
OLD_ITEMS = {
    SUBSCRIPTION: {
        "status_shard": "subscription#acme",
        "target_url": TARGET_URL,
        "event_types": "{}",
        "tenant": "acme",
    },
    "cpy_new": {
        "status_shard": "copy-failed#3",
        "subscription_id": SUBSCRIPTION,
        "lookup_key": "sub_new",
    },
    "evt_failed": {"status_shard": "failed#3"},
}
SHARDS = {
    "pending": "pending#1",
    "failed": "failed#2",
    "delivered": "delivered#2",
    "deleted": "failed#3",
    "erased": "failed#3",
}
for name, shard in SHARDS.items():
    OLD_ITEMS[f"cpy_{name}"] = {"status_shard": f"copy-{shard}", "subscription_id": SUBSCRIPTION}


@pytest.mark.parametrize("old_indexes", [[], [SUBSCRIPTION_INDEX]], ids=["0.3.0", "0.4.0"])
def test_a_table_of_an_older_version_is_updated_by_one_index_at_a_time_and_filled_once(
    checkout: Checkout, aws: Ministack, old_indexes: list[Json]
) -> None:
    # Given a stage of an older version: its stack, its items and its functions.
    template = read_template("dev")
    properties = template["Resources"]["EventsTable"]["Properties"]
    properties["GlobalSecondaryIndexes"][1:] = old_indexes
    properties["AttributeDefinitions"][2]["AttributeName"] = "subscription_id"
    parameters = {
        "ZapierWebhookUrl": "none",
        "ApiKeys": "",
        "WebhookSigningSecrets": SIGNING_SECRET,
    }
    aws.client("cloudformation").create_stack(
        StackName="triggers-api-dev-resources",
        TemplateBody=without_metric_math(json.dumps(template)),
        Parameters=[
            {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
        ],
    )
    aws.client("cloudformation").get_waiter("stack_create_complete").wait(
        StackName="triggers-api-dev-resources"
    )
    for key, texts in OLD_ITEMS.items():
        item = {
            "event_id": key,
            "sort_key": f"2026-11-25T00:00:00.000000Z#{key}",
            "created_by": "acme",
            **texts,
        }
        typed = {name: {"S": text} for name, text in item.items()}
        aws.client("dynamodb").put_item(TableName=TABLE, Item=typed)
    functions = aws.client("lambda")
    trusted = {
        "Effect": "Allow",
        "Principal": {"Service": "lambda.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [trusted]})
    role = aws.client("iam").create_role(
        RoleName="triggers-api-dev", AssumeRolePolicyDocument=policy
    )["Role"]
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("app.py", "")
    given = {
        "Role": role["Arn"],
        "Runtime": RUNTIME,
        "Handler": "app.app",
        "Code": {"ZipFile": code.getvalue()},
    }
    functions.create_function(FunctionName="triggers-api-dev", **given)
    # And its last update still runs.
    aws.replaced = {b"<StackStatus>CREATE_COMPLETE": b"<StackStatus>UPDATE_IN_PROGRESS"}
    aws.seen = lambda operation: (
        aws.replaced.clear() if operation.startswith("DescribeStacks") else None
    )

    # When it is run before the functions are deployed, as often as one likes, nothing that they use
    # goes.
    kept = {"status-index", "lookup-index", *(index["IndexName"] for index in old_indexes)}
    for words in (
        "waiting for stack triggers-api-dev-resources: UPDATE_IN_PROGRESS\n",
        ": no changes\n",
    ):
        status, output = checkout.resources()
        assert (status, words in output) == (0, True), output
        assert "still to do: `make deploy STAGE=dev`" in output
        assert "alarms reach nobody" in output
        assert indexes(aws) == kept
        assert lookup_keys(aws) == {"cpy_new": "sub_new"}

    # When it is run after that, and stopped, and run again.
    functions.update_function_configuration(
        FunctionName="triggers-api-dev", LoggingConfig=gateway.LOGGING
    )
    assert checkout.resources(stop_after="UpdateItem / 200")[0] == -signal.SIGKILL
    assert indexes(aws) == {"status-index", "lookup-index"}
    aws.seen = partial(change_meanwhile, aws)
    status, output = checkout.resources()
    assert (
        status,
        f"lookup-index: {len(OLD_ITEMS):,} events and subscriptions read" in output,
    ) == (0, True), output

    # Then what is listed by subscription is found, and what went meanwhile does not come back.
    copies = dict.fromkeys(("cpy_pending", "cpy_failed"), SUBSCRIPTION)
    assert lookup_keys(aws) == {SUBSCRIPTION: "subscription", **copies, "cpy_new": "sub_new"}
    operations: list[str] = []
    aws.seen = operations.append
    said = "stack triggers-api-dev-resources: no changes\n" + NOBODY.format(topic=TOPIC) + "\n"
    assert checkout.resources() == (0, said)
    assert "Scan / 200" not in operations

    # And all subscriptions can be taken elsewhere.
    status, output = checkout.resources("export")
    exported = json.loads(output)
    assert (status, exported["target_url"], exported["tenant"]) == (0, TARGET_URL, "acme")
    signing_key = base64.b64decode(SIGNING_SECRET.removeprefix("whsec_"))
    derived = hmac.digest(
        signing_key, f"{SUBSCRIPTION}.2026-11-25T00:00:00.000000Z".encode(), "sha256"
    )
    assert exported["secret"] == "whsec_" + base64.b64encode(derived).decode()


def indexes(aws: Ministack) -> set[str]:
    table = aws.client("dynamodb").describe_table(TableName=TABLE)["Table"]
    return {index["IndexName"] for index in table["GlobalSecondaryIndexes"]}


def lookup_keys(aws: Ministack) -> dict[str, str]:
    items = aws.client("dynamodb").scan(TableName=TABLE)["Items"]
    return {
        item["event_id"]["S"]: item["lookup_key"]["S"] for item in items if "lookup_key" in item
    }


def change_meanwhile(aws: Ministack, operation: str) -> None:
    """Delete a copy and erase another once they were read."""
    if operation.startswith("Scan"):
        dynamodb = aws.direct.client("dynamodb")
        dynamodb.delete_item(TableName=TABLE, Key={"event_id": {"S": "cpy_deleted"}})
        erased = {
            "Key": {"event_id": {"S": "cpy_erased"}},
            "UpdateExpression": "REMOVE status_shard, lookup_key",
        }
        dynamodb.update_item(TableName=TABLE, **erased)


def deployer(aws: Ministack) -> dict[str, str]:
    """Return the credentials of a user who may do what docs/deployer-policy.json allows, to any
    resource.

    ministack does not find the resources of all calls.
    """
    iam, name = aws.client("iam"), {"UserName": "deployer"}
    policy = json.loads((ROOT / "docs" / "deployer-policy.json").read_text())
    policy["Statement"] = [
        {**each, "Resource": "*", "Condition": {}} for each in policy["Statement"]
    ]
    iam.create_user(**name)
    made = iam.create_policy(
        PolicyName="deployer", PolicyDocument=json.dumps(policy, separators=(",", ":"))
    )
    iam.attach_user_policy(**name, PolicyArn=made["Policy"]["Arn"])
    key = iam.create_access_key(**name)["AccessKey"]
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }


def what_is_deployed(aws: Ministack) -> Json:
    """Return what `chalice deploy` creates, by kind."""
    functions = aws.client("lambda").list_functions()["Functions"]
    sources = aws.client("lambda").list_event_source_mappings()["EventSourceMappings"]
    return {
        "functions": sorted(function["FunctionName"] for function in functions),
        "roles": sorted(role["RoleName"] for role in aws.client("iam").list_roles()["Roles"]),
        "sources": [
            (each["EventSourceArn"], each["BatchSize"], each["ScalingConfig"]) for each in sources
        ],
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


def unknown_path(aws: Ministack, api_id: str) -> tuple[int, str, str]:
    """Return status, content type and code of the answer to an unknown path, which must not repeat
    the key.
    """
    url = f"http://127.0.0.1:{aws.direct.port}/restapis/{api_id}/api/_user_request_/nothing"
    response = urllib3.request("GET", url, headers=headers(KEY), retries=False)
    assert KEY not in response.data.decode()
    return response.status, response.headers["Content-Type"], response.json()["code"]
