"""Chalice's record of the resources that it deployed, `.chalice/deployed/<stage>.json`."""

import json
from typing import Any

import boto3
import jmespath

from chalicelib.infra.parsing import Json
from tools.stage import (
    FUNCTION_NAMES,
    await_functions,
    describe,
    find_apis,
    find_functions,
    find_roles,
    read_record,
    record_path,
    role_name,
)


def restore_record(stage: str) -> None:
    """Correct Chalice's record of a stage, so that it names the resources that AWS has. They differ
    if a deployment was interrupted, or if the record belongs to another commit.

    `chalice deploy` finds functions, roles and rules by name, but without a correct record it fails
    at event sources and creates a second API. `chalice delete` deletes recorded resources only, and
    fails at a resource that does not exist.
    """
    await_functions(stage)
    record = record_path(stage)
    try:
        content = json.loads(read_record(stage))
    except ValueError:  # there is no record, or its write was interrupted
        content = {"resources": [], "schema_version": "2.0", "backend": "api"}
    recorded = {resource["name"]: resource for resource in content["resources"]}
    resources = dict(recorded)
    for name, found in _find_resources(stage, recorded).items():
        resources[name] = found and {"name": name, **recorded.get(name, {}), **found}
    content["resources"] = [resource for resource in resources.values() if resource]
    if content["resources"] != list(recorded.values()):
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps(content, indent=2))
        print(
            f".chalice/deployed/{stage}.json was corrected: it now names the resources that AWS has"
        )


def _find_resources(stage: str, recorded: Json) -> dict[str, Any]:
    """Return the record's entry for each resource that Chalice may have created, by the name of the
    resource. The entry is None if AWS does not have the resource.

    :param recorded: The present entries of the record, by name.
    """
    found: dict[str, Any] = {}
    events = boto3.client("events")
    functions = find_functions(stage)
    roles = find_roles(stage)
    pages = boto3.client("lambda").get_paginator("list_event_source_mappings").paginate()
    sources = {source["FunctionArn"]: source for source in pages.search("EventSourceMappings[]")}
    for suffix, name in FUNCTION_NAMES.items():
        prefix = role_name(stage, suffix)
        role = roles.get(prefix)
        found[f"{name}_role"] = role and {
            "resource_type": "iam_role",
            "role_name": prefix,
            "role_arn": role["Arn"],
        }
        arn = functions.get(f"triggers-api-{stage}{suffix}", {}).get("FunctionArn")
        found[name] = arn and {"resource_type": "lambda_function", "lambda_arn": arn}
        rule = describe(events.describe_rule, Name=f"{prefix}-event")
        found[f"{name}-event"] = rule and {
            "resource_type": "cloudwatch_event",
            "rule_name": f"{prefix}-event",
        }
        source = sources.get(arn)
        found[f"{name}-sqs-event-source"] = source and {
            "resource_type": "sqs_event",
            "queue": source["EventSourceArn"].rpartition(":")[2],
            "queue_arn": source["EventSourceArn"],
            "event_uuid": source["UUID"],
            "lambda_arn": arn,
        }
    api_ids = find_apis(stage)
    recorded_id = recorded.get("rest_api", {}).get("rest_api_id")
    if recorded_id and recorded_id not in api_ids:
        _revoke_permission(stage, recorded_id)
    api_id = recorded_id if recorded_id in api_ids else next(iter(api_ids), None)
    found["rest_api"] = api_id and {"resource_type": "rest_api", "rest_api_id": api_id}
    return found


def _revoke_permission(stage: str, api_id: str) -> None:
    """Remove the permission of a deleted API to call the API's function. Chalice would keep it
    beside the permission of a new API.

    :param api_id: The id of the deleted API.
    """
    client = boto3.client("lambda")
    function = {"FunctionName": f"triggers-api-{stage}"}
    policy = describe(client.get_policy, **function).get("Policy", "{}")
    path = f"Statement[?contains(to_string(@), ':{api_id}/')].Sid"
    for statement_id in jmespath.search(path, json.loads(policy)) or ():
        client.remove_permission(StatementId=statement_id, **function)
