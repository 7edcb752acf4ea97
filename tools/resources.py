"""`make resources STAGE=dev`: create or update the stack of resources.json, with one change set.

Parameters of an existing stack keep their values unless the environment has new ones.
"""

import itertools
import json
import os
import time
from collections.abc import Collection
from typing import Any

import boto3
import click
from botocore.exceptions import ClientError, WaiterError

from chalicelib import deps, settings
from chalicelib.infra.errors import AWS_ERRORS, ApiError
from chalicelib.infra.parsing import Json
from tools.export import export_subscriptions
from tools.stage import (
    check_place,
    check_runtime,
    find_functions,
    read_config,
    read_template,
    restore_record,
)
from tools.write_secrets import write_secrets

# The variable that sets each parameter of the template.
PARAMETERS = {
    "ZapierWebhookUrl": "ZAPIER_WEBHOOK_URL",
    "ApiKeys": "API_KEYS",
    "WebhookSigningSecrets": "WEBHOOK_SIGNING_SECRETS",
    "AlarmEmail": "ALARM_EMAIL",
    "AlarmUrl": "ALARM_URL",
    "QuietAlarmHours": "QUIET_ALARM_HOURS",
}
REQUIRED = ("ZapierWebhookUrl", "ApiKeys")
NEVER_EMPTY = ("ZapierWebhookUrl", "QuietAlarmHours")  # the others: no keys, signatures, alarms
STAND_INS = {**dict.fromkeys(settings.REQUIRED, "https://stand-in"), "API_KEYS": ""}
FIRST_TIME = """\
{missing} must be set, the first time only:
  ZAPIER_WEBHOOK_URL       where events go: an https URL, none (consumers pull them),
                           or subscriptions (to those alone)
  API_KEYS                 what `make api-key NAME=acme` prints, separated by commas
  WEBHOOK_SIGNING_SECRETS  optional: what `make signing-secret` prints; without it,
                           your webhook's pushes are not signed, and no tokens
  ALARM_EMAIL              optional: the address that alarms are mailed to
  ALARM_URL                optional: an https URL that alarms are posted to
  QUIET_ALARM_HOURS        optional: alarm when no event came for so many hours"""
BUDGET = """\
nothing but a budget stops the bill of a destination that stays dead: make one
(docs/runbook.md, A budget)"""
NAME_IS_TAKEN = """\
{reason}
Something has a name of this stage already: a queue, topic, secret or alarm made by hand,
or by `make package`."""
STILL_DEPLOYED = """\
still deployed, and in need of queues and secret: {running}.
`make destroy STAGE={stage}` deletes them first. What `make package` made goes with its own
stack."""
CONFIRM = """\
nothing was deleted. make destroy STAGE={stage} CONFIRM={stage} deletes all but table and log
groups: for good the secret with webhook URL, API keys and signing secrets. Store what this
prints:
  aws secretsmanager get-secret-value --secret-id triggers-api-{stage}-settings \\
    --query SecretString --output text"""
NOBODY = (
    "alarms reach nobody: no subscription of {topic} is confirmed (docs/runbook.md, Which alarm)"
)
WAITING = "waiting for CloudFormation, which goes on if this is stopped"
COMPLETE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE")
# How an interrupted run may have left the stack, which can then be created or updated again.
USABLE = (*COMPLETE, "DELETE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")
NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
WAIT: Any = {"Delay": 1, "MaxAttempts": 1800}


def update_stage(stage: str, cloudformation: Any) -> None:
    """Update the stack, and what else `chalice deploy` and the functions need."""
    update(stage, cloudformation)
    cloudformation.update_termination_protection(
        StackName=_stack_name(stage), EnableTerminationProtection=True
    )
    restore_record(stage)
    check_alarms(stage, cloudformation)


def update(stage: str, cloudformation: Any) -> None:
    """Create or update the stack; raise ClickException, SettingsError, or what boto3 raises."""
    given = _given(stage)
    stack = _find_stack(stage, cloudformation)
    # by a run that was stopped
    if stack and stack["StackStatus"].endswith("_IN_PROGRESS") and _known_parameters(stack):
        print(f"waiting for stack {_stack_name(stage)}: {stack['StackStatus']}", flush=True)
        _wait(stack["StackId"], USABLE, cloudformation)
        stack = _find_stack(stage, cloudformation)
    known = _known_parameters(stack)
    missing = [PARAMETERS[key] for key in REQUIRED if key not in given.keys() | known]
    if missing:
        raise click.ClickException(FIRST_TIME.format(missing=" and ".join(missing)))
    template = read_template(stage)
    table_name = template["Resources"]["EventsTable"]["Properties"]["TableName"]
    await_indexes(table_name)
    change_set = _create_change_set(stage, template, given, known, cloudformation)
    if change_set is None:
        print(f"stack {_stack_name(stage)}: no changes")
    else:
        _print_changes(stage, change_set, given, cloudformation)
        cloudformation.execute_change_set(**change_set)
        print(WAITING, flush=True)
        _wait(change_set["StackName"], COMPLETE, cloudformation)
        await_indexes(table_name)
        print("done")
    if not known:
        print(BUDGET)


def await_indexes(table_name: str) -> None:
    """Wait until all indexes of the table can be read, and another one can be changed; print
    progress each minute. There may be no table yet.

    CloudFormation is done when DynamoDB begins to fill an index, which takes hours for a large
    table. It changes one at a time.
    """
    dynamodb = boto3.client("dynamodb")
    for seconds in itertools.count():
        try:
            table = dynamodb.describe_table(TableName=table_name)["Table"]
        except dynamodb.exceptions.ResourceNotFoundException:
            return
        states = {"table": table["TableStatus"]}
        for index in table.get("GlobalSecondaryIndexes", ()):
            states[index["IndexName"]] = index.get("IndexStatus", "ACTIVE")  # of emulators
        busy = [f"{name} {state}" for name, state in states.items() if state != "ACTIVE"]
        if not busy:
            return
        if seconds % 60 == 0:
            waited = f"{seconds // 60} min"
            print(f"waiting for {table_name}, {waited}: {', '.join(busy)}", flush=True)
        time.sleep(1)


def _create_change_set(
    stage: str, template: Any, given: dict[str, str], known: set[str], cloudformation: Any
) -> dict[str, str] | None:
    """Return the ARNs of a change set that can be executed and of its stack, or None if nothing
    changes; raise ClickException with CloudFormation's reason.

    A new stack imports the table and the log groups that a deleted one left.
    """
    parameters: list[Json] = [
        {"ParameterKey": key, "ParameterValue": value} for key, value in given.items()
    ]
    parameters += [
        {"ParameterKey": key, "UsePreviousValue": True}
        for key in PARAMETERS
        if key in known and key not in given
    ]
    options: Json = {"ChangeSetType": "UPDATE"}
    if not known:
        options = {"ChangeSetType": "CREATE", "OnStackFailure": "DELETE"}
    try:
        created = cloudformation.create_change_set(
            StackName=_stack_name(stage),
            ChangeSetName=f"resources-{time.time_ns()}",
            TemplateBody=json.dumps(template),
            Parameters=parameters,
            Tags=[
                {"Key": "Service", "Value": "triggers-api"},
                {"Key": "Environment", "Value": stage},
            ],
            ImportExistingResources=True,
            **options,
        )
    except ClientError as error:
        _explain(str(error))
        return None
    # IAM looks at the stack, not at the change set.
    change_set = {"StackName": created["StackId"], "ChangeSetName": created["Id"]}
    try:
        waiter = cloudformation.get_waiter("change_set_create_complete")
        waiter.wait(**change_set, WaiterConfig=WAIT)
    except WaiterError as error:
        cloudformation.delete_change_set(**change_set)
        _explain(error.last_response.get("StatusReason", str(error)))
        return None
    return change_set


def _explain(reason: str) -> None:
    """Raise ClickException unless the reason is that nothing changes."""
    if any(text in reason for text in NO_CHANGES):
        return
    if "ResourceExistenceCheck" in reason:
        reason = NAME_IS_TAKEN.format(reason=reason)
    raise click.ClickException(reason) from None


def _print_changes(
    stage: str, change_set: dict[str, str], given: dict[str, str], cloudformation: Any
) -> None:
    taken = [
        PARAMETERS[key] + ("" if given[key] else " (empty)") for key in PARAMETERS if key in given
    ]
    said = ", ".join(taken) or "none"
    print(f"stack {_stack_name(stage)}; settings taken from the environment: {said}")
    paginator = cloudformation.get_paginator("describe_change_set")
    pages = paginator.paginate(**change_set)
    for change in pages.search("Changes[].ResourceChange"):
        print(f"  {change['Action']:<7} {change['LogicalResourceId']}  {change['ResourceType']}")


def check_alarms(stage: str, cloudformation: Any) -> None:
    """Print a line if alarms reach nobody."""
    [stack] = cloudformation.describe_stacks(StackName=_stack_name(stage))["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    topic = outputs["DLQAlarmTopicArn"]
    attributes = boto3.client("sns").get_topic_attributes(TopicArn=topic)["Attributes"]
    if attributes["SubscriptionsConfirmed"] == "0":
        print(NOBODY.format(topic=topic))


def delete(stage: str, cloudformation: Any) -> None:
    """Delete the stack, if it exists; the table and the log groups stay.

    Raise ClickException while functions are deployed: they would run without queues and secret.
    """
    running = sorted(find_functions(stage))
    if running:
        raise click.ClickException(STILL_DEPLOYED.format(running=", ".join(running), stage=stage))
    stack = _find_stack(stage, cloudformation)
    if stack is None:
        print(f"there is no stack {_stack_name(stage)} in {cloudformation.meta.region_name}")
        return
    if stack.get("EnableTerminationProtection"):  # CloudFormation refuses while it deletes
        cloudformation.update_termination_protection(
            StackName=stack["StackId"], EnableTerminationProtection=False
        )
    cloudformation.delete_stack(StackName=stack["StackId"])
    _wait(stack["StackId"], ("DELETE_COMPLETE",), cloudformation)
    print(
        "stack deleted; kept, for the next stack to adopt: the table "
        f"triggers-api-{stage}-events, the log groups"
    )


def _given(stage: str) -> dict[str, str]:
    """Return the parameters that the environment sets; raise SettingsError if one is unusable, or
    config.json is.
    """
    given = {}
    for key, variable in PARAMETERS.items():
        value = " ".join(os.environ.get(variable, "").split())
        if value or (variable in os.environ and key not in NEVER_EMPTY):
            given[key] = value
    variables = {PARAMETERS[key]: value for key, value in given.items()}
    deps.load_checked({**STAND_INS, **read_config(stage), **variables})
    return {"Stage": stage, **given}


def _find_stack(stage: str, cloudformation: Any) -> Json | None:
    try:
        [stack] = cloudformation.describe_stacks(StackName=_stack_name(stage))["Stacks"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationError":
            raise
        return None
    return stack  # type: ignore[no-any-return]


def _known_parameters(stack: Json | None) -> set[str]:
    """Return the parameters whose values the stack has: none if it does not exist."""
    # In review: interrupted before its first change set was executed.
    if stack is None or stack["StackStatus"] == "REVIEW_IN_PROGRESS":
        return set()
    return {parameter["ParameterKey"] for parameter in stack.get("Parameters", ())}


def _stack_name(stage: str) -> str:
    return f"triggers-api-{stage}-resources"


def _wait(stack_id: str, wanted: Collection[str], cloudformation: Any) -> None:
    """Wait until CloudFormation is through; raise ClickException with the first failure if the
    status is not wanted.
    """
    while True:
        [stack] = cloudformation.describe_stacks(StackName=stack_id)["Stacks"]
        if not stack["StackStatus"].endswith("_IN_PROGRESS"):
            break
        time.sleep(1)
    if stack["StackStatus"] in wanted:
        return
    # the newest first
    events = cloudformation.describe_stack_events(StackName=stack_id)["StackEvents"]
    latest = itertools.takewhile(
        lambda event: event.get("ResourceStatusReason") != "User Initiated", events
    )
    reason = "the events of the stack tell why"
    for event in latest:
        if event["ResourceStatus"].endswith("_FAILED"):
            reason = f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason')}"
    raise click.ClickException(f"{stack['StackStatus']}: {reason}")


@click.command()
@click.argument("stage")
@click.argument(
    "act",
    type=click.Choice(["update", "deploy", "check", "delete", "export", "secrets"]),
    default="update",
)
def main(stage: str, act: str) -> None:
    if act == "check" and os.environ.get("CONFIRM") != stage:
        raise click.ClickException(CONFIRM.format(stage=stage))
    try:
        cloudformation = boto3.client("cloudformation")
        if act != "export":  # that of `make run` is in no account
            check_place(stage)
        match act:
            case "check":
                # without a stack, what there is was made by `make package`
                if _find_stack(stage, cloudformation):
                    restore_record(stage, is_deleting=True)
            case "delete":
                delete(stage, cloudformation)
            case "update":
                update_stage(stage, cloudformation)
            case "deploy":
                check_runtime(stage)
                update_stage(stage, cloudformation)
            case "export":
                export_subscriptions(read_config(stage))
            case "secrets":
                loaded = deps.load_checked(read_config(stage))
                write_secrets(stage, deps.Services(loaded, make_client=boto3.client))
    except (ApiError, *AWS_ERRORS) as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
