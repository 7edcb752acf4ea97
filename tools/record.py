"""Chalice's record of the resources that it deployed, `.chalice/deployed/<stage>.json`."""

import json

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
    if a deployment was interrupted, or if the record belongs to another commit. If the recorded API
    was deleted, also remove its permission to call the API's function.

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
    # The entries of the record, by the name of the resource: before and after the correction.
    recorded = {resource["name"]: resource for resource in content["resources"]}
    corrected = dict(recorded)
    found = _find_resources(stage, recorded)
    for name, members in found.items():
        if members is None:  # AWS does not have the resource
            corrected.pop(name, None)
        else:
            corrected[name] = {"name": name, **recorded.get(name, {}), **members}
    recorded_api = recorded.get("rest_api", {}).get("rest_api_id")
    found_api = (found["rest_api"] or {}).get("rest_api_id")
    if recorded_api and recorded_api != found_api:  # the recorded API was deleted
        _revoke_permission(stage, recorded_api)
    content["resources"] = list(corrected.values())
    if content["resources"] != list(recorded.values()):
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps(content, indent=2))
        print(
            f".chalice/deployed/{stage}.json was corrected: it now names the resources that AWS has"
        )


def _find_resources(stage: str, recorded: Json) -> dict[str, Json | None]:
    """Return the members of the record's entry for each resource that Chalice may have created, by
    the name of the resource; None in place of the members: AWS does not have the resource.

    If there are several APIs with the stage's name, the recorded one is returned, or else the first
    one.

    :param recorded: The present entries of the record, by name.
    """
    found: dict[str, Json | None] = {}
    events = boto3.client("events")
    functions = find_functions(stage)
    roles = find_roles(stage)
    pages = boto3.client("lambda").get_paginator("list_event_source_mappings").paginate()
    sources = {source["FunctionArn"]: source for source in pages.search("EventSourceMappings[]")}
    for suffix, name in FUNCTION_NAMES.items():
        found[f"{name}_role"] = None
        found[name] = None
        found[f"{name}-event"] = None
        found[f"{name}-sqs-event-source"] = None
        name_of_role = role_name(stage, suffix)
        role = roles.get(name_of_role)
        if role:
            found[f"{name}_role"] = {
                "resource_type": "iam_role",
                "role_name": name_of_role,
                "role_arn": role["Arn"],
            }
        arn = functions.get(f"triggers-api-{stage}{suffix}", {}).get("FunctionArn")
        if arn:
            found[name] = {"resource_type": "lambda_function", "lambda_arn": arn}
        rule_name = f"{name_of_role}-event"
        if describe(events.describe_rule, Name=rule_name):
            found[f"{name}-event"] = {
                "resource_type": "cloudwatch_event",
                "rule_name": rule_name,
            }
        source = sources.get(arn)
        if source:
            found[f"{name}-sqs-event-source"] = {
                "resource_type": "sqs_event",
                "queue": source["EventSourceArn"].rpartition(":")[2],
                "queue_arn": source["EventSourceArn"],
                "event_uuid": source["UUID"],
                "lambda_arn": arn,
            }
    found["rest_api"] = None
    api_ids = find_apis(stage)
    if api_ids:
        recorded_id = recorded.get("rest_api", {}).get("rest_api_id")
        api_id = recorded_id if recorded_id in api_ids else api_ids[0]
        found["rest_api"] = {"resource_type": "rest_api", "rest_api_id": api_id}
    return found


def _revoke_permission(stage: str, api_id: str) -> None:
    """Remove the permission of a deleted API to call the API's function. Chalice would keep it
    beside the permission of a new API.

    :param api_id: The id of the deleted API.
    """
    client = boto3.client("lambda")
    function = {"FunctionName": f"triggers-api-{stage}"}
    # Neither a function without a policy nor a policy without such a statement is an error.
    policy = describe(client.get_policy, **function).get("Policy", "{}")
    path = f"Statement[?contains(to_string(@), ':{api_id}/')].Sid"
    for statement_id in jmespath.search(path, json.loads(policy)) or ():
        client.remove_permission(StatementId=statement_id, **function)
