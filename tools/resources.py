"""Makes what `resources.json` describes, where it is missing, and says what it is called.

Safe to call again on an AWS that holds everything, or a part of it: what is there is left as it is.
"""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, WaiterError

TEMPLATE = Path(__file__).parent.parent / "resources.json"
VARIABLES = {"EventsTable": "EVENTS_TABLE_NAME", "InboxQueue": "INBOX_QUEUE_URL", "InboxDLQ": "INBOX_DLQ_URL"}

# What `Ref` and `Fn::GetAtt` give for a resource.
Attributes = dict[str, str]


def client(service: str) -> Any:
    config = Config(connect_timeout=3, retries={"total_max_attempts": 1})
    return boto3.client(service, config=config)  # type: ignore[call-overload]


class ResourcesError(Exception):
    """Something that is needed is not there: `str()` is one line for a person."""


def ensure(stage: str) -> dict[str, str]:
    """Return the environment variables that name the table and the queues of `stage`, made now if need be.

    Raises ResourcesError, and botocore's errors when AWS fails.
    """
    template = json.loads(TEMPLATE.read_text())
    found = _find(template, stage)
    if len(found) < len(VARIABLES):
        _create(template, stage, found)
        found = _find(template, stage)
    absent = VARIABLES.keys() - found.keys()
    if absent:
        raise ResourcesError(f"not there, though its stack is: {', '.join(sorted(absent))}")
    return {VARIABLES[logical_id]: attributes["Ref"] for logical_id, attributes in found.items()}


def check(names: dict[str, str]) -> None:
    """Raise ResourcesError unless the table and the queues that the variables `names` name are there."""
    absent = [name for name, value in names.items() if not _attributes(name, value)]
    if absent:
        raise ResourcesError("; ".join(f"{name} names what is not there: {names[name]}" for name in absent))


def _find(template: dict[str, Any], stage: str) -> dict[str, Attributes]:
    """Return the table and the queues that are there already, by logical id."""
    found = {}
    for logical_id, variable in VARIABLES.items():
        properties = template["Resources"][logical_id]["Properties"]
        name = (properties.get("TableName") or properties["QueueName"])["Fn::Sub"].replace("${Stage}", stage)
        attributes = _attributes(variable, name)
        if attributes:
            found[logical_id] = attributes
    return found


def _attributes(variable: str, name: str) -> Attributes | None:
    """Return what `name` refers to, None if it is not there. A queue's URL or its name will do."""
    try:
        if variable == "EVENTS_TABLE_NAME":
            return {"Ref": name, "Arn": client("dynamodb").describe_table(TableName=name)["Table"]["TableArn"]}
        sqs = client("sqs")
        url = name if "/" in name else sqs.get_queue_url(QueueName=name)["QueueUrl"]
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
        return {"Ref": url, "Arn": attributes["QueueArn"]}
    except ClientError:
        return None


def _create(template: dict[str, Any], stage: str, found: dict[str, Attributes]) -> None:
    """Make a stack around what is there: CloudFormation refuses to make a thing whose name is taken.

    When the stage has its stack, yet something is missing (killed halfway, deleted by hand), a second one completes it.
    """
    cloudformation, name = client("cloudformation"), f"triggers-api-{stage}-resources"
    rest = {logical_id: resource for logical_id, resource in template["Resources"].items() if logical_id not in found}
    try:
        _create_stack(cloudformation, name, stage, {**template, "Resources": rest}, found)
    except cloudformation.exceptions.AlreadyExistsException:
        with contextlib.suppress(WaiterError):
            _await_stack(cloudformation, name)
        found = _find(template, stage)
        missing = {logical_id: rest[logical_id] for logical_id in VARIABLES if logical_id not in found}
        if missing:
            _create_stack(cloudformation, f"{name}-{time.time_ns()}", stage, {**template, "Resources": missing}, found)


def _create_stack(
    cloudformation: Any, name: str, stage: str, template: dict[str, Any], found: dict[str, Attributes]
) -> None:
    body = json.dumps({key: _resolve(part, found) for key, part in template.items() if key != "Outputs"})
    parameters = [{"ParameterKey": "Stage", "ParameterValue": stage}]
    cloudformation.create_stack(StackName=name, TemplateBody=body, Parameters=parameters)
    _await_stack(cloudformation, name)


def _await_stack(cloudformation: Any, name: str) -> None:
    often = {"Delay": 1, "MaxAttempts": 120}
    cloudformation.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig=often)


def _resolve(part: Any, found: dict[str, Attributes]) -> Any:
    """Return `part` of a template with what is there already in the place of references to it."""
    match part:
        case {"Ref": str(logical_id)} if logical_id in found:
            return found[logical_id]["Ref"]
        case {"Fn::GetAtt": [logical_id, "Arn"]} if logical_id in found:
            return found[logical_id]["Arn"]
        case dict():
            return {key: _resolve(value, found) for key, value in part.items()}
        case list():
            return [_resolve(value, found) for value in part]
    return part
