"""`make resources STAGE=dev`: create or update the stack of resources.json, with one change set.

Parameters of an existing stack keep their values unless the environment has new ones.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, WaiterError

from chalicelib import settings
from chalicelib.settings import SettingsError

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
STAND_INS = {
    "EVENTS_TABLE_NAME": "events",
    "INBOX_QUEUE_URL": "https://sqs.invalid/inbox",
    "INBOX_DLQ_URL": "https://sqs.invalid/dlq",
    "ZAPIER_WEBHOOK_URL": "none",
    "API_KEYS": "",
}
FIRST_TIME = """\
{missing} must be set, the first time only:
  ZAPIER_WEBHOOK_URL       where events are pushed to: an https URL, or none if consumers pull them
  API_KEYS                 what `make api-key NAME=acme` prints, separated by commas
  WEBHOOK_SIGNING_SECRETS  optional: what `make signing-secret` prints; without it, pushes are not signed
  ALARM_EMAIL              optional: the address that alarms are mailed to"""
NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
NEVER_CREATED = ("CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED")
WAIT: Any = {"Delay": 1, "MaxAttempts": 1800}


class ResourcesError(Exception):
    """The stack cannot be created, updated or deleted; the text says why and what to do."""


def update(stage: str, cloudformation: Any) -> None:
    """Create or update the stack; raise ResourcesError, SettingsError, or what boto3 raises."""
    given = _given(stage)
    stack = _find(stage, cloudformation)
    if stack and stack["StackStatus"] in NEVER_CREATED:
        delete(stage, cloudformation)
        stack = None
    is_update = stack is not None and stack["StackStatus"] != "REVIEW_IN_PROGRESS"
    known = {parameter["ParameterKey"] for parameter in stack.get("Parameters", ())} if stack and is_update else set()
    missing = [PARAMETERS[key] for key in ("ZapierWebhookUrl", "ApiKeys") if key not in given.keys() | known]
    if missing:
        raise ResourcesError(FIRST_TIME.format(missing=" and ".join(missing)))
    name = _stack_name(stage)
    parameters: list[dict[str, Any]] = [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()]
    parameters += [{"ParameterKey": key, "UsePreviousValue": True} for key in PARAMETERS if key in known - given.keys()]
    change_set = cloudformation.create_change_set(
        StackName=name,
        ChangeSetName=f"resources-{time.time_ns()}",
        ChangeSetType="UPDATE" if is_update else "CREATE",
        TemplateBody=json.dumps(read_template(stage)),
        Parameters=parameters,
        Tags=[{"Key": "Service", "Value": "triggers-api"}, {"Key": "Environment", "Value": stage}],
        ImportExistingResources=True,  # the table that a deleted stack left
    )["Id"]
    try:
        cloudformation.get_waiter("change_set_create_complete").wait(ChangeSetName=change_set, WaiterConfig=WAIT)
    except WaiterError as error:
        reason = error.last_response.get("StatusReason", str(error))
        cloudformation.delete_change_set(ChangeSetName=change_set)
        if not any(text in reason for text in NO_CHANGES):
            raise ResourcesError(reason) from None
        print(f"stack {name}: no changes")
        return
    print(f"stack {name}: {'update' if is_update else 'create'}")
    for page in cloudformation.get_paginator("describe_change_set").paginate(ChangeSetName=change_set):
        for change in (entry["ResourceChange"] for entry in page["Changes"]):
            replaced = "  replaced" if change.get("Replacement") == "True" else ""
            print(
                f"  {change['Action']:<7} {change['LogicalResourceId']}  {change['ResourceType']}{replaced}", flush=True
            )
    cloudformation.execute_change_set(ChangeSetName=change_set)
    _wait("stack_update_complete" if is_update else "stack_create_complete", name, cloudformation)
    print(f"stack {name}: done")


def delete(stage: str, cloudformation: Any) -> None:
    """Delete the stack, if it exists; the table stays."""
    name = _stack_name(stage)
    cloudformation.delete_stack(StackName=name)
    _wait("stack_delete_complete", name, cloudformation)
    print(f"stack {name}: deleted; the table triggers-api-{stage}-events is kept, and the next stack takes it over")


def restore_record(stage: str) -> None:
    """Write Chalice's record of what is deployed, if a deployment was interrupted before Chalice wrote it.

    Chalice finds roles, functions and rules by name. Of the API it would make a second one, and the event source of the
    worker it could not make again.
    """
    record = ROOT / ".chalice" / "deployed" / f"{stage}.json"
    if record.exists() and json.loads(record.read_text())["resources"]:
        return
    worker, resources = f"triggers-api-{stage}-worker", []
    functions, gateway = boto3.client("lambda"), boto3.client("apigateway")
    with contextlib.suppress(functions.exceptions.ResourceNotFoundException):
        for source in functions.list_event_source_mappings(FunctionName=worker)["EventSourceMappings"]:
            arn = source["EventSourceArn"]
            event = {"queue_arn": arn, "queue": arn.rsplit(":", 1)[-1], "event_uuid": source["UUID"]}
            event |= {
                "name": "worker-sqs-event-source",
                "resource_type": "sqs_event",
                "lambda_arn": source["FunctionArn"],
            }
            resources.append(event)
    for page in gateway.get_paginator("get_rest_apis").paginate():
        found = [api["id"] for api in page["items"] if api["name"] == f"triggers-api-{stage}"]
        resources += [{"name": "rest_api", "resource_type": "rest_api", "rest_api_id": api} for api in found]
    if resources:
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps({"resources": resources, "schema_version": "2.0", "backend": "api"}, indent=2))
        print(f"{record.relative_to(ROOT)} restored: a deployment was interrupted")


def ensure(stage: str) -> dict[str, str]:
    """Create the table and the queues in a local AWS where they are missing; return the variables that name them."""
    template = read_template(stage)["Resources"]
    config = Config(connect_timeout=3, retries={"total_max_attempts": 1})  # a closed port is reported at once
    dynamodb, sqs = boto3.client("dynamodb", config=config), boto3.client("sqs", config=config)
    table = template["EventsTable"]["Properties"]
    with contextlib.suppress(dynamodb.exceptions.ResourceInUseException):
        names = ("TableName", "BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
        dynamodb.create_table(**{name: table[name] for name in names})
        dynamodb.get_waiter("table_exists").wait(TableName=table["TableName"], WaiterConfig=WAIT)
        dynamodb.update_time_to_live(
            TableName=table["TableName"], TimeToLiveSpecification=table["TimeToLiveSpecification"]
        )
    urls = {}
    for queue in ("InboxDLQ", "InboxQueue"):
        properties = template[queue]["Properties"]
        try:
            urls[queue] = sqs.get_queue_url(QueueName=properties["QueueName"])["QueueUrl"]
        except sqs.exceptions.QueueDoesNotExist:
            attributes = {key: str(value) for key, value in properties.items() if isinstance(value, int)}
            if policy := properties.get("RedrivePolicy"):
                dlq = sqs.get_queue_attributes(QueueUrl=urls["InboxDLQ"], AttributeNames=["QueueArn"])["Attributes"]
                attributes["RedrivePolicy"] = json.dumps({**policy, "deadLetterTargetArn": dlq["QueueArn"]})
            urls[queue] = sqs.create_queue(QueueName=properties["QueueName"], Attributes=attributes)["QueueUrl"]
    return {
        "EVENTS_TABLE_NAME": table["TableName"],
        "INBOX_QUEUE_URL": urls["InboxQueue"],
        "INBOX_DLQ_URL": urls["InboxDLQ"],
    }


def _stack_name(stage: str) -> str:
    return f"triggers-api-{stage}-resources"


def read_template(stage: str) -> Any:
    """Return resources.json with the names of the stage spelled out: CloudFormation adopts only resources with such."""

    def spell_out(part: dict[str, Any]) -> Any:
        text = part.get("Fn::Sub")
        name = text.replace("${Stage}", stage) if isinstance(text, str) else "${"
        return part if "${" in name else name

    return json.loads((ROOT / "resources.json").read_text(), object_hook=spell_out)


def read_config(stage: str) -> Any:
    """Return .chalice/config.json; raise SettingsError if it does not have the stage."""
    config = json.loads((ROOT / ".chalice" / "config.json").read_text())
    if stage not in config["stages"]:
        raise SettingsError(f"STAGE is unusable: .chalice/config.json has the stages {' and '.join(config['stages'])}")
    return config


def _given(stage: str) -> dict[str, str]:
    """Return the parameters that the environment sets; raise SettingsError if one is unusable, or config.json is."""
    config = read_config(stage)
    given = {"Stage": stage}
    for key, variable in PARAMETERS.items():
        value = " ".join(os.environ.get(variable, "").split())
        if value or (variable in os.environ and key in MAY_BE_EMPTY):
            given[key] = value
    configured = config.get("environment_variables", {}) | config["stages"][stage].get("environment_variables", {})
    settings.load({**STAND_INS, **configured, **{PARAMETERS[key]: given[key] for key in PARAMETERS if key in given}})
    return given


def _find(stage: str, cloudformation: Any) -> dict[str, Any] | None:
    """Return the description of the stack, once nothing is in progress, or None."""
    while True:
        try:
            [stack] = cloudformation.describe_stacks(StackName=_stack_name(stage))["Stacks"]
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationError":  # it does not exist
                return None
            raise
        if stack["StackStatus"] == "REVIEW_IN_PROGRESS" or not stack["StackStatus"].endswith("_IN_PROGRESS"):
            return dict(stack)
        time.sleep(WAIT["Delay"])


def _wait(waiter: str, name: str, cloudformation: Any) -> None:
    try:
        cloudformation.get_waiter(waiter).wait(StackName=name, WaiterConfig=WAIT)
    except WaiterError:
        events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]  # the newest first
        failures = [event for event in events if event["ResourceStatus"].endswith("_FAILED")]
        reason = (
            f"{failures[-1]['LogicalResourceId']}: {failures[-1].get('ResourceStatusReason')}" if failures else waiter
        )
        raise ResourcesError(f"stack {name} failed: {reason}") from None


def main(stage: str, act: str = "update") -> int:
    try:
        if act == "delete":
            delete(stage, boto3.client("cloudformation"))
        else:
            update(stage, boto3.client("cloudformation"))
            restore_record(stage)
    except (ResourcesError, SettingsError, BotoCoreError, ClientError) as error:
        print(f"make resources: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
