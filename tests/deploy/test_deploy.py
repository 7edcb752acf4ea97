"""`make deploy`, `chalice local` and `make destroy`, as processes in checkouts, on ministack."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import urllib3
from chalice.local import LambdaEventConverter, RouteMatcher

from tests.support.checkout import (
    ELSEWHERE,
    FUNCTIONS,
    GIVEN,
    KEY,
    MAKE,
    PLACE,
    RESTORED,
    RUNTIME,
    TABLE,
    Checkout,
    is_write,
)
from tests.support.iam import Request, is_allowed, requests_of
from tests.support.ministack import Ministack
from tests.support.packages import install
from tests.support.world import ROOT, Json, assert_has
from tools import api_key, gateway

pytestmark = pytest.mark.timeout(300)

NEW_KEY = api_key.new_key()
SIGNING_SECRET = "whsec_" + "c2VjcmV0" * 4
TOPIC = "arn:aws:sns:us-east-1:000000000000:triggers-api-dev-dlq-alarm-topic"
INBOX_ARN = "arn:aws:sqs:us-east-1:000000000000:triggers-api-dev-inbox-queue"
SLOW_ARN = INBOX_ARN.replace("inbox", "slow")
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
BUSY = "If somebody else makes or updates this stage, wait until that is done"
REFUSED = """\
Error: nothing was changed. The environment has other settings than stack triggers-api-dev-resources
  API_KEYS: + acme, \N{MINUS SIGN} acme
  WEBHOOK_SIGNING_SECRETS: removed
  WORKER_MAX_CONCURRENCY: 5 \N{RIGHTWARDS ARROW} 7
Leave them as they are: unset these variables. Or apply them: GO=1 behind the same command.
"""
EVENT = {"event_type": "order.created", "payload": {"order_id": "12345"}}


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
    paths = ("//GET", "/health/GET", "/health/HEAD", "/openapi.json/GET", "/listen.py/GET")
    public = dict.fromkeys(paths, 20)
    rates = {path: limit["throttlingRateLimit"] for path, limit in limits.items()}
    assert rates == {"*/*": 200, "/events/batch/POST": 20, **public}

    # the record of the stage was committed
    second = Checkout(shutil.copytree(checkout.path, tmp_path / "second", symlinks=True), aws)
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
    kept_table = "stack deleted. The table triggers-api-dev-events and the log groups are kept"
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
            Description="event_types.json:44136fa3",  # and the SHA-256 of {}
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


def test_two_laptops_on_one_new_stage_end_in_a_sentence_and_policies_suffice(
    checkout: Checkout, aws: Ministack, tmp_path: Path
) -> None:
    other = Checkout(shutil.copytree(checkout.path, tmp_path / "other", symlinks=True), aws)
    given = {**GIVEN, **ELSEWHERE, "WEBHOOK_SIGNING_SECRETS": SIGNING_SECRET}
    checkout.account |= ELSEWHERE

    def meanwhile(act: Callable[..., str], operation: str) -> None:
        def look(seen: str) -> None:
            if seen.startswith(operation):
                aws.seen = lambda _: None
                act("deploy", **given)

        aws.seen = look

    meanwhile(other.resources, "CreateChangeSet")
    assert BUSY in checkout.make("deploy", **given, status=1)
    meanwhile(other.make, "POST /2015-03-31/functions ")
    output = checkout.make("deploy", status=1)

    assert "Traceback" not in output
    assert "\nIf somebody else deploys this stage, wait until that is done.\n" in output
    checkout.make("deploy")
    checkout.record.write_text("{")  # as if it had been killed there
    made = [call for call in aws.calls if (call.method, call.path) == ("POST", "/restapis")]
    assert len(made) == 1

    dynamodb = aws.direct("dynamodb")
    item = {name: {"S": text} for name, text in SUBSCRIPTION.items()}
    dynamodb.put_item(TableName=TABLE, Item=item)
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
    export = f"{' '.join(MAKE)} export-subscriptions > subscriptions.jsonl"
    checkout.run(["bash", "-c", export], 0, MAKEFLAGS="")
    exported = json.loads(exported_to.read_text())
    assert exported_to.stat().st_mode & 0o777 == 0o600
    assert "stack deleted" in checkout.make("destroy", "CONFIRM=dev")

    assert_has(exported, target_url=SUBSCRIPTION["target_url"], secret=SIGNING_SECRET)
    asked = [request for call in aws.calls for request in requests_of(call, functions)]
    assert denied("deployer", asked) == set()
    assert denied("oncall", on_call) == set()
    assert {"lambda:UpdateFunctionCode", "iam:PutRolePolicy"} <= denied("oncall", asked)
    regions = {call.region for call in aws.calls if call.service != "iam"}  # which has no region
    assert regions == {"us-east-1"}


def test_a_deployment_ends_with_each_disabled_trigger_and_the_stage_of_the_api(
    checkout: Checkout, aws: Ministack
) -> None:
    checkout.configure(api_gateway_stage="live")
    output = checkout.make("deploy", **GIVEN)
    assert re.search(r"^export TRIGGERS_URL=https://.*/live$", output.splitlines()[-1])
    client = aws.direct("lambda")
    triggers = client.list_event_source_mappings()["EventSourceMappings"]
    for trigger in triggers:
        client.update_event_source_mapping(UUID=trigger["UUID"], Enabled=False)

    output = checkout.configure_api()

    _, *commands = re.split("^the SQS trigger of .* is disabled: .*:$", output, flags=re.MULTILINE)
    assert len(commands) == len(triggers) == 2
    for command in commands:
        aws_cli = str(install().with_name("aws"))
        checkout.run(["bash", "-c", command.replace("aws ", f"{aws_cli} ", 1)], 0)
    assert checkout.configure_api().splitlines()[-1].endswith("/live")


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


def denied(name: str, asked: list[Request]) -> set[str]:
    """Return the actions that a policy of the documents denies."""
    policy = json.loads((ROOT / "docs" / f"{name}-policy.json").read_text())
    return {request.action for request in asked if not is_allowed(policy, request)}


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
