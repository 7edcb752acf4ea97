"""`make resources STAGE=dev`: create or update the stack of resources.json, with one change set.

Parameters of an existing stack keep their values unless the environment has new ones.
"""

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import boto3
import click
from botocore.exceptions import ClientError, WaiterError

from chalicelib import settings
from chalicelib.errors import AWS_ERRORS

ROOT = Path(__file__).parent.parent

# The variable that sets each parameter of the template. Some may be empty: no keys, no signatures, no mail.
PARAMETERS = {
    "ZapierWebhookUrl": "ZAPIER_WEBHOOK_URL",
    "ApiKeys": "API_KEYS",
    "WebhookSigningSecrets": "WEBHOOK_SIGNING_SECRETS",
    "AlarmEmail": "ALARM_EMAIL",
    "MetricsNamespace": "METRICS_NAMESPACE",
}
MAY_BE_EMPTY = ("ApiKeys", "WebhookSigningSecrets", "AlarmEmail")
STAND_INS = {**dict.fromkeys(settings.REQUIRED, "https://stand-in"), "API_KEYS": ""}
FIRST_TIME = """\
{missing} must be set, the first time only:
  ZAPIER_WEBHOOK_URL       where events are pushed to: an https URL, or none if consumers pull them
  API_KEYS                 what `make api-key NAME=acme` prints, separated by commas
  WEBHOOK_SIGNING_SECRETS  optional: what `make signing-secret` prints; without it, pushes are not signed
  ALARM_EMAIL              optional: the address that alarms are mailed to"""
NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
WAIT: Any = {"Delay": 1, "MaxAttempts": 1800}


def update(stage: str, cloudformation: Any) -> None:
    """Create or update the stack; raise ClickException, SettingsError, or what boto3 raises."""
    given, known = _given(stage), _known_parameters(stage, cloudformation)
    missing = [PARAMETERS[key] for key in ("ZapierWebhookUrl", "ApiKeys") if key not in given.keys() | known]
    if missing:
        raise click.ClickException(FIRST_TIME.format(missing=" and ".join(missing)))
    parameters: list[dict[str, Any]] = [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()]
    kept = known & PARAMETERS.keys() - given.keys()
    parameters += [{"ParameterKey": key, "UsePreviousValue": True} for key in kept]
    kind = {"ChangeSetType": "UPDATE"} if known else {"ChangeSetType": "CREATE", "OnStackFailure": "DELETE"}
    try:
        change_set = cloudformation.create_change_set(
            StackName=_stack_name(stage),
            ChangeSetName=f"resources-{time.time_ns()}",
            TemplateBody=json.dumps(read_template(stage)),
            Parameters=parameters,
            Tags=[{"Key": "Service", "Value": "triggers-api"}, {"Key": "Environment", "Value": stage}],
            ImportExistingResources=True,  # the table and the log groups that a deleted stack left
            **kind,
        )
        name = {"ChangeSetName": change_set["Id"]}
        cloudformation.get_waiter("change_set_create_complete").wait(**name, WaiterConfig=WAIT)
    except (ClientError, WaiterError) as error:
        reason = str(error)
        if isinstance(error, WaiterError):
            reason = error.last_response.get("StatusReason", reason)
            cloudformation.delete_change_set(**name)
        if not any(text in reason for text in NO_CHANGES):
            raise click.ClickException(reason) from None
        print(f"stack {_stack_name(stage)}: no changes")
        return
    print(f"stack {_stack_name(stage)}:")
    pages = cloudformation.get_paginator("describe_change_set").paginate(**name)
    for change in pages.search("Changes[].ResourceChange"):
        print(f"  {change['Action']:<7} {change['LogicalResourceId']}  {change['ResourceType']}", flush=True)
    cloudformation.execute_change_set(**name)
    _wait(f"stack_{'update' if known else 'create'}_complete", change_set["StackId"], cloudformation)
    print("done")


def delete(stage: str, cloudformation: Any) -> None:
    """Delete the stack, if it exists; the table and the log groups stay."""
    cloudformation.delete_stack(StackName=_stack_name(stage))
    _wait("stack_delete_complete", _stack_name(stage), cloudformation)
    print(f"stack deleted; kept, for the next stack to adopt: the table triggers-api-{stage}-events, the log groups")


def restore_record(stage: str) -> None:
    """Write Chalice's record of the event source and the API if it is missing: a deployment was interrupted.

    Chalice finds everything else by name. It would fail at the event source, and then create a second API.
    """
    record = ROOT / ".chalice" / "deployed" / f"{stage}.json"
    recorded = json.loads(record.read_text())["resources"] if record.exists() else []
    if {"sqs_event", "rest_api"} <= {resource["resource_type"] for resource in recorded}:
        return
    sources = boto3.client("lambda").get_paginator("list_event_source_mappings").paginate()
    found = [
        {
            "name": "worker-sqs-event-source",
            "resource_type": "sqs_event",
            "queue": f"triggers-api-{stage}-inbox-queue",
            "queue_arn": source["EventSourceArn"],
            "event_uuid": source["UUID"],
            "lambda_arn": source["FunctionArn"],
        }
        for source in sources.search(f"EventSourceMappings[?ends_with(FunctionArn, ':triggers-api-{stage}-worker')]")
    ]
    apis = boto3.client("apigateway").get_paginator("get_rest_apis").paginate()
    found += [
        {"name": "rest_api", "resource_type": "rest_api", "rest_api_id": api_id}
        for api_id in apis.search(f"items[?name == 'triggers-api-{stage}'].id")
    ]
    if found:
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps({"resources": found, "schema_version": "2.0", "backend": "api"}, indent=2))
        print(f"{record.relative_to(ROOT)}: restored after an interrupted deployment")


def read_template(stage: str) -> Any:
    """Return resources.json with the stage's names spelled out: CloudFormation imports no others."""

    def spell_out(part: dict[str, Any]) -> Any:
        name = str(part.get("Fn::Sub", "${")).replace("${Stage}", stage)
        return part if "${" in name else name

    return json.loads((ROOT / "resources.json").read_text(), object_hook=spell_out)


def read_config(stage: str) -> Any:
    """Return .chalice/config.json; raise ClickException if it does not have the stage."""
    config = json.loads((ROOT / ".chalice" / "config.json").read_text())
    if stage not in config["stages"]:
        raise click.ClickException(f"STAGE is unusable: .chalice/config.json has {' and '.join(config['stages'])}")
    return config


def _given(stage: str) -> dict[str, str]:
    """Return the parameters that the environment sets; raise SettingsError if one is unusable, or config.json is."""
    config = read_config(stage)
    given = {"Stage": stage}
    for key, variable in PARAMETERS.items():
        value = " ".join(os.environ.get(variable, "").split())
        if value or (variable in os.environ and key in MAY_BE_EMPTY):
            given[key] = value
    configured = config["environment_variables"] | config["stages"][stage]["environment_variables"]
    settings.load({**STAND_INS, **configured, **{PARAMETERS[key]: given[key] for key in PARAMETERS.keys() & given}})
    return given


def _known_parameters(stage: str, cloudformation: Any) -> set[str]:
    """Return the parameters whose values the stack has: none if it does not exist."""
    try:
        [stack] = cloudformation.describe_stacks(StackName=_stack_name(stage))["Stacks"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationError":
            raise
        return set()
    is_made = stack["StackStatus"] != "REVIEW_IN_PROGRESS"  # interrupted before the change set was executed
    return {parameter["ParameterKey"] for parameter in stack.get("Parameters", ()) if is_made}


def _stack_name(stage: str) -> str:
    return f"triggers-api-{stage}-resources"


def _wait(waiter: str, stack: str, cloudformation: Any) -> None:
    try:
        cloudformation.get_waiter(waiter).wait(StackName=stack, WaiterConfig=WAIT)
    except WaiterError as error:
        events = cloudformation.describe_stack_events(StackName=stack)["StackEvents"]  # the newest first
        latest = itertools.takewhile(lambda event: event.get("ResourceStatusReason") != "User Initiated", events)
        failures = [event for event in latest if event["ResourceStatus"].endswith("_FAILED")]
        reasons = [f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason')}" for event in failures]
        raise click.ClickException((reasons or [str(error)])[-1]) from None


@click.command()
@click.argument("stage")
@click.argument("act", type=click.Choice(["update", "delete"]), default="update")
def main(stage: str, act: str) -> None:
    try:
        cloudformation = boto3.client("cloudformation")
        if act == "delete":
            delete(stage, cloudformation)
        else:
            update(stage, cloudformation)
            restore_record(stage)
    except (settings.SettingsError, *AWS_ERRORS) as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
