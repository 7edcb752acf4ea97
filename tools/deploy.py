"""`make deploy STAGE=dev`: the resources' stack, then Chalice's deployment, then what Chalice knows nothing of.

What is missing is said before anything is changed. Every step can be repeated: stopped midway, it is run again.
"""

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from botocore.session import Session
from chalice.app import Chalice
from chalice.awsclient import TypedAWSClient
from chalice.deploy.appgraph import ApplicationGraphBuilder, DependencyBuilder
from chalice.deploy.deployer import ChaliceDeploymentError, Deployer, ResultsRecorder, create_build_stage
from chalice.deploy.executor import Executor
from chalice.deploy.models import RestAPI
from chalice.deploy.packager import NoSuchPackageError, PackageDownloadError
from chalice.deploy.planner import PlanStage, RemoteState
from chalice.deploy.swagger import TemplatedSwaggerGenerator
from chalice.deploy.sweeper import ResourceSweeper
from chalice.utils import UI, OSUtils
from rich.console import Console

from tools import deployed, gateway, package
from tools import stage as stages
from tools.deployed import Resource
from tools.stack import Stack, StackError

MOST_ENVIRONMENT_BYTES = 4096  # Lambda quotas, "Environment variables"
MAIL = r"[^@\s]+@[^@\s]+"

FAILURES = (
    BotoCoreError,
    ClientError,
    ResponseParserError,
    ChaliceDeploymentError,
    NoSuchPackageError,
    PackageDownloadError,
    StackError,
    RuntimeError,
)

console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


class DeployError(Exception):
    """It cannot be done: `str()` says why, without secrets."""


def run(target: str, act: Callable[[str], None], stage: str) -> int:
    """Do what a make target does, and return its exit status."""
    try:
        with failures():
            act(stage)
    except DeployError as error:
        print(f"{target}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{target}: stopped. Run it again, it goes on from what is there.", file=sys.stderr)
        return 130
    return 0


def deploy(stage: str) -> None:
    """Bring a stage to what the code and the environment say; raise DeployError."""
    with console.status(f"stage {stage}"):
        variables = _check(stage)
        os.environ["STAGE"] = stage  # app.py reads it
        outputs = _deploy_resources(stage)
        variables |= {
            "EVENTS_TABLE_NAME": outputs["EventsTableName"],
            "INBOX_QUEUE_URL": outputs["InboxQueueUrl"],
            "INBOX_DLQ_URL": outputs["InboxDLQUrl"],
        }
        _make_log_groups(stage)
        api = _deploy_functions(stage, variables)
        _let_the_worker_queue(stage)
        gateway.set_up(api["rest_api_id"], stage, console.print)
    console.print(WHAT_IS_WHERE.format(url=api["rest_api_url"].rstrip("/"), stage=stage))
    if any(source["State"] in ("Disabled", "Disabling") for source in deployed.event_sources(stage)):
        console.print("The worker is not fed, and nothing is tried again: its event source is disabled.")
    if mail := os.environ["ALARM_EMAIL"].strip():
        console.print(f"Alarms go to {mail}, once the link in the mail from AWS is followed.")


WHAT_IS_WHERE = """
The API: {url}

  curl -sS {url}/health
  export TRIGGERS_URL={url} TRIGGERS_API_KEY=trk_...
  curl -sS -w '\\n' "$TRIGGERS_URL/events" \\
    -H "Authorization: Bearer $TRIGGERS_API_KEY" -H 'Content-Type: application/json' \\
    -d '{{"event_type": "order.created", "payload": {{"order_id": "12345"}}}}'

The dashboard: CloudWatch, triggers-api-{stage}-delivery. Dead letters: make dlq STAGE={stage}"""


def _check(stage: str) -> dict[str, str]:
    """Return the variables that the functions get; raise DeployError naming everything that is missing."""
    environ = {**os.environ, "STAGE": stage}
    given = stages.given(environ)
    checked, faults = stages.check(environ, stages.TABLE_AND_QUEUES)
    faults += stages.unknown(stage)
    if checked and not checked.webhook_url.startswith("https:"):
        faults.append("ZAPIER_WEBHOOK_URL is unusable: Lambda cannot reach this machine, it must be an https URL")
    if not re.fullmatch(f"|{MAIL}", os.environ.get("ALARM_EMAIL", "-").strip()):
        faults.append("ALARM_EMAIL is missing: who is mailed when events die; set but empty for nobody")
    variables = {name: given[name] for name in (*stages.SECRET, *stages.OPTIONAL) if name in given}
    if sum(len(f"{name}{value}".encode()) for name, value in variables.items()) > MOST_ENVIRONMENT_BYTES - 512:
        faults.append(
            "API_KEYS and the other variables are longer than the 4 KB that Lambda takes: fewer keys are needed"
        )
    faults += account_faults() or ([] if stages.unknown(stage) else _stage_faults(stage))
    if faults:
        raise DeployError("\n  ".join(["nothing was changed, since", *faults]))
    return variables


def _stage_faults(stage: str) -> list[str]:
    """Return what is in the way of this stage in this region, and what would be lost of it unsaid."""
    worker = deployed.find_function(stage, "worker")
    if stack := package_stack(worker):
        return [f"STAGE {stage} is the packaged stack {stack}: update that, or delete it first"]
    if not worker and not resources_stack(stage).exists and deployed.find_role(stage, "worker"):
        return [f"STAGE {stage} is deployed in another region of this account: a stage has one region"]
    there = worker.get("Configuration", {}).get("Environment", {}).get("Variables", {})
    return [
        f"{name} is set on AWS and not here: set it, or set it empty to do without"
        for name in ("WEBHOOK_SIGNING_SECRETS", *stages.OPTIONAL)  # what else is missing is named anyway
        if name in there and name not in os.environ
    ]


def package_stack(function: dict[str, Any]) -> str | None:
    """Return the name of the stack that made a function, if one did: `make package` uses the same names."""
    if function and "Tags" not in function:
        raise DeployError("the functions' tags cannot be read: lambda:ListTags is needed")
    name: str | None = function.get("Tags", {}).get("aws:cloudformation:stack-name")
    return name


def account_faults() -> list[str]:
    """Return what keeps us from the account, or say which it is."""
    faults = []
    try:
        session = boto3.Session()
        if session.region_name is None:
            faults.append("AWS_DEFAULT_REGION is missing: the region to deploy to, for example us-east-1")
        if session.get_credentials() is None:
            faults.append("AWS credentials are missing: AWS_PROFILE, or aws configure, or aws sso login")
        if not faults:
            account = session.client("sts").get_caller_identity()["Account"]
            console.print(f"account {account}, region {session.region_name}")
    except (BotoCoreError, ClientError, ResponseParserError, ValueError) as error:
        faults.append(f"AWS credentials are not taken: {error}")
    return faults


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Turn what AWS and Chalice raise into a DeployError. Lambda repeats the whole environment in some errors."""
    try:
        yield
    except FAILURES as error:
        # Chalice wraps lines, also in the middle of a secret.
        text = str(getattr(error, "original_error", error))
        for name in stages.SECRET:
            for secret in re.split(r"[\s,]+", os.environ.get(name, "")):
                for form in (secret, json.dumps(secret)[1:-1]):
                    text = text.replace(form, f"<{name}>") if form else text
        raise DeployError(text) from None


def resources_stack(stage: str) -> Stack:
    return Stack(boto3.client("cloudformation"), f"triggers-api-{stage}-resources", console.print)


def _deploy_resources(stage: str) -> dict[str, str]:
    template = json.loads(package.RESOURCES.read_text())
    # A name that CloudFormation computes keeps it from taking over the table that an earlier stack left.
    table = f"triggers-api-{stage}-events"
    template["Resources"]["EventsTable"]["Properties"]["TableName"] = table
    parameters = {"Stage": stage, "AlarmEmail": os.environ["ALARM_EMAIL"].strip()}
    if namespace := stages.given(os.environ).get("METRICS_NAMESPACE"):
        parameters["MetricsNamespace"] = namespace
    return resources_stack(stage).deploy(template, parameters, import_existing=_table_exists(table))


def _table_exists(name: str) -> bool:
    dynamodb = boto3.client("dynamodb")
    try:
        dynamodb.describe_table(TableName=name)
    except dynamodb.exceptions.ResourceNotFoundException:
        return False
    return True


def _make_log_groups(stage: str) -> None:
    """Make the groups before Lambda does: it would keep logs for ever."""
    logs = boto3.client("logs")
    for name in stages.log_groups(stage):
        with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
            logs.create_log_group(logGroupName=name, tags={"Service": "triggers-api", "Environment": stage})
        logs.put_retention_policy(logGroupName=name, retentionInDays=package.LOG_RETENTION_DAYS)


class _Swagger(TemplatedSwaggerGenerator):
    """Chalice's description of the API, with ours of what API Gateway answers by itself."""

    def generate_swagger(self, app: Chalice, rest_api: RestAPI | None = None) -> dict[str, Any]:
        document: dict[str, Any] = super().generate_swagger(app, rest_api)
        document |= package.overlay()["Resources"]["RestAPI"]["Properties"]["DefinitionBody"]
        return document


def _deploy_functions(stage: str, variables: dict[str, str]) -> Resource:
    """Have Chalice make or update functions, roles, schedules, event source and API; return the API."""
    with deployed.packageable() as project:
        config = deployed.chalice_config(stage, variables, project)
        config.found = deployed.find(stage)
        client = TypedAWSClient(Session())
        deployer = Deployer(
            application_builder=ApplicationGraphBuilder(),
            deps_builder=DependencyBuilder(),
            build_stage=create_build_stage(OSUtils(), UI(), _Swagger(), config),
            plan_stage=PlanStage(RemoteState(client, config.deployed_resources(stage)), OSUtils()),
            sweeper=ResourceSweeper(),
            executor=Executor(client, UI()),
            recorder=ResultsRecorder(OSUtils()),
        )
        resources = deployer.deploy(config, stage)["resources"]
    return next(resource for resource in resources if resource["resource_type"] == "rest_api")


def _let_the_worker_queue(stage: str) -> None:
    """Let the worker send messages to the queue that starts it: Lambda takes some 16 of an event's for a loop."""
    name = stages.function_name(stage, "worker")
    boto3.client("lambda").put_function_recursion_config(FunctionName=name, RecursiveLoop="Allow")


if __name__ == "__main__":
    sys.exit(run("make deploy", deploy, os.environ.get("STAGE") or "dev"))
