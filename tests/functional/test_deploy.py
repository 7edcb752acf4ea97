"""`make deploy` and `make destroy`, as the processes they are, against moto's server."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import requests
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from chalice.deploy.deployer import ChaliceDeploymentError

from tests.support.moto_server import MotoServer, moto_server
from tests.support.running import ROOT, environment
from tools import deploy, deployed

pytestmark = [pytest.mark.timeout(120)]

SECRET_PATH = "/hooks/catch/123/s3cr3t"
KEY_HASH = "ab" * 32
GIVEN = {
    "ZAPIER_WEBHOOK_URL": f"https://hooks.example.com{SECRET_PATH}",
    "API_KEYS": f"acme:{KEY_HASH}",
    "ALARM_EMAIL": "ops@example.com",
    "MAX_DELIVERY_ATTEMPTS": "7",
    "WORKER_MAX_CONCURRENCY": "9",
}
ACCOUNT = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
FUNCTIONS = ["triggers-api-dev", "triggers-api-dev-check_dlq", "triggers-api-dev-sweep", "triggers-api-dev-worker"]


class Laptop:
    """Somebody's checkout and credentials."""

    def __init__(self, moto: MotoServer) -> None:
        self.moto = moto
        self.environ = environment(STAGE="dev", AWS_ENDPOINT_URL=moto.url, **ACCOUNT, **GIVEN)

    def run(self, command: str, *, stop_after: tuple[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run `make deploy` or `make destroy`; kill it once a request like (operation, path) was answered."""
        arguments = [sys.executable, "-m", f"tools.{command}"]
        process = subprocess.Popen(
            arguments, cwd=ROOT, env=self.environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        if stop_after:
            operation, pattern = stop_after

            def stop(seen: str, path: str) -> None:
                if seen == operation and re.search(pattern, path):
                    process.send_signal(signal.SIGKILL)

            self.moto.seen = stop
        try:
            out, err = process.communicate(timeout=60)
        finally:
            self.moto.seen = lambda operation, path: None
            process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def aws(self, service: str) -> Any:
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        return boto3.client(service, endpoint_url=self.moto.url, region_name="us-east-1", **keys)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with moto_server() as server:
        yield server


@pytest.fixture
def laptop(moto: MotoServer) -> Laptop:
    requests.post(f"{moto.url}/moto-api/reset", timeout=10)
    return Laptop(moto)


def what_is_there(laptop: Laptop) -> dict[str, Any]:
    """Return everything that a deployment makes, by kind."""
    apis = laptop.aws("apigateway").get_rest_apis()["items"]
    sources = laptop.aws("lambda").list_event_source_mappings()["EventSourceMappings"]
    return {
        "stacks": [stack["StackName"] for stack in laptop.aws("cloudformation").describe_stacks()["Stacks"]],
        "tables": laptop.aws("dynamodb").list_tables()["TableNames"],
        "queues": sorted(url.rsplit("/", 1)[-1] for url in laptop.aws("sqs").list_queues().get("QueueUrls", ())),
        "functions": sorted(
            function["FunctionName"] for function in laptop.aws("lambda").list_functions()["Functions"]
        ),
        "sources": [source["EventSourceArn"].rsplit(":", 1)[-1] for source in sources],
        "rules": sorted(rule["Name"] for rule in laptop.aws("events").list_rules()["Rules"]),
        "apis": [api["name"] for api in apis],
        "deployments": [
            api["name"] for api in apis for _ in laptop.aws("apigateway").get_deployments(restApiId=api["id"])["items"]
        ],
        "roles": sorted(role["RoleName"] for role in laptop.aws("iam").list_roles()["Roles"]),
        "logs": sorted(
            (group["logGroupName"], group["retentionInDays"])
            for group in laptop.aws("logs").describe_log_groups()["logGroups"]
        ),
    }


WHOLE = {
    "stacks": ["triggers-api-dev-resources"],
    "tables": ["triggers-api-dev-events"],
    "queues": ["triggers-api-dev-inbox-dlq", "triggers-api-dev-inbox-queue"],
    "functions": FUNCTIONS,
    "sources": ["triggers-api-dev-inbox-queue"],
    "rules": ["triggers-api-dev-check_dlq-event", "triggers-api-dev-sweep-event"],
    "apis": ["triggers-api-dev"],
    "deployments": ["triggers-api-dev"],
    "roles": [
        "triggers-api-access-logs",
        "triggers-api-dev-api_handler",
        "triggers-api-dev-check_dlq",
        "triggers-api-dev-sweep",
        "triggers-api-dev-worker",
    ],
    "logs": [("/aws/apigateway/triggers-api-dev", 30), *((f"/aws/lambda/{name}", 30) for name in FUNCTIONS)],
}


def test_a_deployment_is_whole_says_where_it_is_and_can_be_repeated_and_taken_down(laptop: Laptop) -> None:
    first = laptop.run("deploy")
    assert first.returncode == 0, first.stderr
    assert what_is_there(laptop) == WHOLE
    (api,) = laptop.aws("apigateway").get_rest_apis()["items"]
    assert f"curl -sS https://{api['id']}.execute-api.us-east-1.amazonaws.com/api/health" in first.stdout
    assert SECRET_PATH not in first.stdout + first.stderr

    again = laptop.run("deploy")
    assert again.returncode == 0, again.stderr
    assert what_is_there(laptop) == WHOLE
    assert laptop.aws("apigateway").get_rest_apis()["items"][0]["id"] == api["id"]

    destroyed = laptop.run("destroy")
    assert destroyed.returncode == 0, destroyed.stderr
    left = {kind: found for kind, found in what_is_there(laptop).items() if found}
    assert left == {"tables": ["triggers-api-dev-events"], "roles": ["triggers-api-access-logs"]}
    assert "kept in the table triggers-api-dev-events" in destroyed.stdout
    assert "There is no stage dev" in laptop.run("destroy").stdout


def test_the_events_of_a_stage_that_was_taken_down_are_there_when_it_is_back(laptop: Laptop) -> None:
    assert laptop.run("deploy").returncode == 0
    dynamodb, table = laptop.aws("dynamodb"), "triggers-api-dev-events"
    dynamodb.put_item(TableName=table, Item={"event_id": {"S": "evt_kept"}})
    assert laptop.run("destroy").returncode == 0

    back = laptop.run("deploy")

    assert back.returncode == 0, back.stderr
    assert what_is_there(laptop) == WHOLE
    assert dynamodb.scan(TableName=table)["Items"] == [{"event_id": {"S": "evt_kept"}}]


def test_a_stage_whose_stack_was_deleted_is_whole_after_the_next_deployment(laptop: Laptop) -> None:
    assert laptop.run("deploy").returncode == 0
    laptop.aws("cloudformation").delete_stack(StackName="triggers-api-dev-resources")

    again = laptop.run("deploy")

    assert again.returncode == 0, again.stderr
    assert what_is_there(laptop) == WHOLE


@pytest.mark.parametrize("command", ["deploy", "destroy"])
def test_a_packaged_stage_is_left_alone(laptop: Laptop, command: str) -> None:
    assert laptop.run("deploy").returncode == 0
    functions = laptop.aws("lambda")
    worker = functions.get_function(FunctionName="triggers-api-dev-worker")["Configuration"]["FunctionArn"]
    functions.tag_resource(Resource=worker, Tags={"aws:cloudformation:stack-name": "everything"})

    refused = laptop.run(command)

    assert refused.returncode == 1
    assert "STAGE dev is the packaged stack everything" in refused.stderr
    assert what_is_there(laptop) == WHOLE


def test_a_variable_that_was_forgotten_is_not_taken_away(laptop: Laptop) -> None:
    assert laptop.run("deploy").returncode == 0
    del laptop.environ["MAX_DELIVERY_ATTEMPTS"]

    refused = laptop.run("deploy")
    assert refused.returncode == 1
    assert "MAX_DELIVERY_ATTEMPTS is set on AWS and not here" in refused.stderr

    laptop.environ["MAX_DELIVERY_ATTEMPTS"] = ""
    assert laptop.run("deploy").returncode == 0
    function = laptop.aws("lambda").get_function_configuration(FunctionName="triggers-api-dev-worker")
    assert "MAX_DELIVERY_ATTEMPTS" not in function["Environment"]["Variables"]


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    """Give a Lambda that answers what it is told to, and nothing else."""
    client = boto3.client("lambda", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    monkeypatch.setattr(boto3, "client", lambda _: client)
    with Stubber(client) as stub:
        yield stub
        stub.assert_no_pending_responses()


def test_a_function_that_is_being_changed_is_waited_for_and_one_that_failed_is_not(
    stubbed: Stubber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployed, "POLL_SECONDS", 0)
    for state, update in (("Pending", "InProgress"), ("Active", "InProgress"), ("Active", "Failed")):
        told = {"FunctionArn": "arn:aws:lambda:us-east-1:1:function:f", "State": state, "LastUpdateStatus": update}
        stubbed.add_response("get_function", {"Configuration": told})

    assert [found["name"] for found in deployed._function("dev", "worker")] == ["worker"]


def test_functions_whose_tags_cannot_be_read_are_left_alone() -> None:
    with pytest.raises(deploy.DeployError, match="lambda:ListTags"):
        deploy.package_stack({"Configuration": {}, "TagsError": {"ErrorCode": "AccessDenied"}})


def test_a_mapping_of_somebody_else_without_a_queue_is_passed_over(stubbed: Stubber) -> None:
    kafka = {"UUID": "0" * 36, "SelfManagedEventSource": {}, "FunctionArn": "arn:aws:lambda:us-east-1:1:function:other"}
    stubbed.add_response("list_event_source_mappings", {"EventSourceMappings": [kafka]})

    assert deployed.event_sources("dev") == []


def test_the_worker_may_queue_and_who_deploys_is_told_when_nothing_feeds_it(laptop: Laptop) -> None:
    allowed = []
    laptop.moto.seen = lambda operation, path: allowed.append(path) if "Recursion" in operation else None
    assert "its event source is disabled" not in laptop.run("deploy").stdout
    functions = laptop.aws("lambda")
    (source,) = functions.list_event_source_mappings()["EventSourceMappings"]
    functions.update_event_source_mapping(UUID=source["UUID"], Enabled=False)

    told = laptop.run("deploy").stdout

    assert allowed == ["/2024-08-31/functions/triggers-api-dev-worker/recursion-config"]
    assert "its event source is disabled" in told


def test_a_stage_is_left_alone_by_who_looks_in_another_region(laptop: Laptop) -> None:
    assert laptop.run("deploy").returncode == 0
    laptop.environ["AWS_DEFAULT_REGION"] = "eu-west-1"

    assert "There is no stage dev in this account and region" in laptop.run("destroy").stdout
    refused = laptop.run("deploy")

    assert "STAGE dev is deployed in another region" in refused.stderr
    assert what_is_there(laptop) == WHOLE


def test_destroying_wants_to_know_what(laptop: Laptop) -> None:
    del laptop.environ["STAGE"]
    assert "STAGE is unusable: .chalice/config.json knows dev and prod" in laptop.run("destroy").stderr


@pytest.mark.parametrize("length", range(20, 80, 7))
def test_what_aws_repeats_of_the_environment_is_not_shown(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lambda repeats every variable when they are too long, and Chalice wraps the lines."""
    secrets = {
        "ZAPIER_WEBHOOK_URL": GIVEN["ZAPIER_WEBHOOK_URL"],
        "WEBHOOK_SIGNING_SECRETS": "whsec_c2VjcmV0 whsec_bW9yZQ==",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    message = f"String measured: {'x' * length} {json.dumps(secrets)}"
    refusal = ClientError({"Error": {"Code": "InvalidParameterValueException", "Message": message}}, "CreateFunction")

    with pytest.raises(deploy.DeployError) as raised, deploy.failures():
        raise ChaliceDeploymentError(refusal)

    said = "".join(str(raised.value).split())
    assert "CreateFunction" in said
    assert not [secret for secret in (SECRET_PATH, "c2VjcmV0", "bW9yZQ==") if secret in said]


def test_the_functions_get_what_was_given_and_what_was_made(laptop: Laptop) -> None:
    assert laptop.run("deploy").returncode == 0

    for name in FUNCTIONS:
        function = laptop.aws("lambda").get_function_configuration(FunctionName=name)
        variables = function["Environment"]["Variables"]
        assert {name: value for name, value in GIVEN.items() if variables.get(name) == value}.keys() == {
            "ZAPIER_WEBHOOK_URL",
            "API_KEYS",
            "MAX_DELIVERY_ATTEMPTS",
            "WORKER_MAX_CONCURRENCY",
        }
        assert variables["STAGE"] == "dev"
        assert variables["EVENTS_TABLE_NAME"] == "triggers-api-dev-events"
        assert variables["INBOX_QUEUE_URL"].endswith("/triggers-api-dev-inbox-queue")
        assert variables["INBOX_DLQ_URL"].endswith("/triggers-api-dev-inbox-dlq")
        assert function["Role"].endswith(f":role/{name}") or name == "triggers-api-dev"
        assert function["Architectures"] == ["arm64"]
    (source,) = laptop.aws("lambda").list_event_source_mappings()["EventSourceMappings"]
    assert source["ScalingConfig"] == {"MaximumConcurrency": 9}
    git = subprocess.run(["git", "grep", "-lF", KEY_HASH], cwd=ROOT, capture_output=True, text=True, check=False)
    assert git.stdout == ""


def test_the_api_is_limited_logged_and_answers_in_one_form(laptop: Laptop) -> None:
    assert laptop.run("deploy").returncode == 0

    gateway = laptop.aws("apigateway")
    (api,) = gateway.get_rest_apis()["items"]
    (stage,) = gateway.get_stages(restApiId=api["id"])["item"]
    assert stage["methodSettings"]["*/*"]["throttlingRateLimit"] == 200
    assert stage["methodSettings"]["*/*"]["throttlingBurstLimit"] == 400
    assert stage["accessLogSettings"]["destinationArn"].endswith(":log-group:/aws/apigateway/triggers-api-dev")
    assert set(json.loads(stage["accessLogSettings"]["format"])) >= {"request_id", "status", "duration_ms"}
    assert not stage.get("tracingEnabled")
    assert gateway.get_account()["cloudwatchRoleArn"].endswith(":role/triggers-api-access-logs")


@pytest.mark.parametrize(
    "stop_after",
    [
        ("CreateStack", ""),
        ("POST", r"^/2015-03-31/functions$"),
        ("POST", r"^/2015-03-31/event-source-mappings"),
        ("POST", r"^/restapis$"),
        ("PATCH", r"^/restapis/\w+/stages/"),
    ],
    ids=str,
)
def test_a_deployment_that_was_stopped_midway_is_whole_after_the_next(
    laptop: Laptop, stop_after: tuple[str, str]
) -> None:
    stopped = laptop.run("deploy", stop_after=stop_after)
    assert stopped.returncode == -signal.SIGKILL

    done = laptop.run("deploy")

    assert done.returncode == 0, done.stderr
    assert what_is_there(laptop) == WHOLE


def test_what_is_missing_is_said_before_anything_is_changed(laptop: Laptop) -> None:
    for name in (*GIVEN, "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del laptop.environ[name]
    nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    laptop.environ |= {**nothing, "AWS_EC2_METADATA_DISABLED": "true", "BACKOFF_CAP_SECONDS": "long", "STAGE": "qa"}

    refused = laptop.run("deploy")

    assert refused.returncode == 1
    first, *rest = refused.stderr.splitlines()
    assert first == "make deploy: nothing was changed, since"
    assert [line.split()[0] for line in rest] == [
        "ZAPIER_WEBHOOK_URL",
        "API_KEYS",
        "BACKOFF_CAP_SECONDS",
        "STAGE",
        "ALARM_EMAIL",
        "AWS_DEFAULT_REGION",
        "AWS",
    ]
    assert all(not found for found in what_is_there(laptop).values())


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ZAPIER_WEBHOOK_URL", "http://127.0.0.1:9000/hook", "it must be an https URL"),
        ("API_KEYS", ",".join(f"key-{number}:{KEY_HASH}" for number in range(60)), "longer than the 4 KB"),
        ("ALARM_EMAIL", "nobody", "ALARM_EMAIL"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "AWS credentials are not taken"),
        ("AWS_ENDPOINT_URL", "localhost:1", "AWS credentials are not taken"),
        ("AWS_PROFILE", "no-such-profile", "AWS credentials are not taken"),
    ],
)
def test_what_cannot_work_is_refused(laptop: Laptop, variable: str, value: str, said: str) -> None:
    laptop.environ[variable] = value

    refused = laptop.run("deploy")

    assert refused.returncode == 1
    assert said in refused.stderr
    assert not what_is_there(laptop)["stacks"]
