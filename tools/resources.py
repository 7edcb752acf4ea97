"""`make resources STAGE=dev`: create or update the stack of resources.json, with one change set.

Parameters of an existing stack keep their values unless the environment has others, and GO=1 is on
the command line.
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

from chalicelib import __version__
from chalicelib.infra.errors import AWS_ERRORS, ApiError
from chalicelib.infra.parsing import Json
from tools.changes import (
    PARAMETERS,
    UnconfirmedError,
    find_undone_keys,
    have_same_entries,
    name_keys,
    outputs_of,
    read_previous_keys,
    read_settings,
)
from tools.configuration import read_config
from tools.export import export_subscriptions
from tools.plan import plan_update, variables_of
from tools.record import restore_record
from tools.stage import (
    check_account,
    check_place,
    check_runtime,
    find_functions,
    read_template,
    stack_name,
    tags_of,
)


def find_own_stack(stage: str, *, is_deleting: bool, cloudformation: Any) -> Json | None:
    """Return the stage's stack, or None if there is none; raise ClickException unless commands may
    change the stage in this account and region.

    A stack in review, which was never created, is deleted. A deletion that a stopped run had begun
    is completed.

    :param is_deleting: Whether the stage is to be deleted.
    """
    stack = _find_stack(stage, cloudformation)
    if stack and stack["StackStatus"] in ("REVIEW_IN_PROGRESS", "DELETE_IN_PROGRESS"):
        cloudformation.delete_stack(StackName=stack["StackId"])
        _wait(stack["StackId"], ("DELETE_COMPLETE",), cloudformation)
        stack = None
    check_place(stage, has_stack=stack is not None, is_deleting=is_deleting)
    return stack


COMPLETE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE")
# How an interrupted run may have left the stack, which can then be created or updated again.
USABLE = (*COMPLETE, "UPDATE_ROLLBACK_COMPLETE")


def update_stage(
    stage: str,
    stack: Json | None,
    *,
    is_deploying: bool,
    is_confirmed: bool,
    cloudformation: Any,
) -> None:
    """Create or update the stack, protect it, and correct Chalice's record; raise ClickException,
    SettingsError, or an error of boto3.

    :param stack: The stack; None if it is to be created.
    :param is_deploying: Whether `chalice deploy` follows.
    :param is_confirmed: Whether settings are applied that differ from the stage's.
    """
    if stack and stack["StackStatus"].endswith("_IN_PROGRESS"):  # by a run that was stopped
        print(f"waiting for stack {stack_name(stage)}: {stack['StackStatus']}", flush=True)
        stack = _wait(stack["StackId"], USABLE, cloudformation)
    secret = _read_or_make_secret(stage, stack, cloudformation) if stack else {}
    plan = plan_update(stage, stack, secret, is_deploying=is_deploying, is_confirmed=is_confirmed)
    template = read_template(stage)
    stack = apply_template(
        stage, template, stack, cloudformation, applied=plan.applied, changes=plan.changes
    )
    cloudformation.update_termination_protection(
        StackName=stack_name(stage), EnableTerminationProtection=True
    )
    restore_record(stage)
    check_alarms(outputs_of(stack)["DLQAlarmTopicArn"])
    if "API_KEYS" in plan.applied:
        check_keys(stage, plan.applied["API_KEYS"], plan.keys_before)
    if plan.refusal:
        raise UnconfirmedError(plan.refusal)
    check_indexes(stage, waits=is_deploying)


def apply_template(
    stage: str,
    template: Json,
    stack: Json | None,
    cloudformation: Any,
    *,
    applied: dict[str, str],
    changes: list[str],
) -> Json:
    """Create or update the stack with one change set, and print what it changes; return the stack
    as it is then. Raise ClickException with CloudFormation's reason.

    :param applied: The values of parameters, by variable. Others stay as they are.
    :param changes: A line for each value that differs.
    """
    known = variables_of(stack)
    change_set = _create_change_set(stage, template, applied, known, cloudformation)
    if change_set is None:
        print(f"stack {stack_name(stage)}: no changes")
        return stack or {}
    print("\n  ".join([f"stack {stack_name(stage)}", *changes]))
    pages = cloudformation.get_paginator("describe_change_set").paginate(**change_set)
    actions = {}
    for change in pages.search("Changes[].ResourceChange"):
        name = change["LogicalResourceId"]
        actions[name] = change["Action"]
        print(f"  {actions[name]:<7} {name}  {change['ResourceType']}")
    table_name = template["Resources"]["EventsTable"]["Properties"]["TableName"]
    if actions.get("EventsTable") == "Modify":  # DynamoDB changes one index at a time
        await_indexes(table_name)
    cloudformation.execute_change_set(**change_set)
    print("waiting for CloudFormation, which goes on if this is stopped", flush=True)
    updated = _wait(change_set["StackName"], COMPLETE, cloudformation)
    if "EventsTable" in actions:
        await_indexes(table_name)
    print("done")
    return updated


NO_SETTINGS = """\
nothing was changed. The settings cannot be read: the secret triggers-api-{stage}-settings was
deleted ({reason}).
Until 30 days after its deletion, or as many as were chosen then, restore it:
  aws secretsmanager restore-secret --secret-id triggers-api-{stage}-settings
After that, make it again. CloudFormation has the values that `make resources` set last:
  make resources STAGE={stage} NEW_SECRET=1"""


def _read_or_make_secret(stage: str, stack: Json, cloudformation: Any) -> dict[str, str]:
    """Return the settings in the stage's secret, by variable. If the secret was deleted, create it
    again if NEW_SECRET is set, else raise ClickException.
    """
    try:
        return read_settings(stage)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code not in ("ResourceNotFoundException", "InvalidRequestException"):
            raise
        # After an InvalidRequestException the secret waits for its deletion, and can be restored.
        if code == "InvalidRequestException" or not os.environ.get("NEW_SECRET"):
            reason = error.response["Error"]["Message"]
            raise click.ClickException(NO_SETTINGS.format(stage=stage, reason=reason)) from None
    template = read_template(stage)
    settings = template["Resources"].pop("Settings")
    # CloudFormation does not notice the deletion. It creates the secret only after an update that
    # removed it from the stack.
    apply_template(stage, template, stack, cloudformation, applied={}, changes=[])
    template["Resources"]["Settings"] = settings
    apply_template(stage, template, stack, cloudformation, applied={}, changes=[])
    return read_settings(stage)


KEYS_DIFFER = """\
somebody else changed API_KEYS at the same time, and one change undid the other.
  in use: {in_use}
  added or taken out in vain: {undone}
Type the change again that is not in effect."""


def check_keys(stage: str, meant: str, before: str) -> None:
    """Raise ClickException if another run changed API_KEYS at the same time, and one of the two
    changes undid the other.

    :param meant: The API_KEYS that this run set.
    :param before: The API_KEYS that this run had read.
    """
    in_use = read_settings(stage)["API_KEYS"]
    undone = find_undone_keys(before, meant, in_use)
    if not have_same_entries(before, meant):
        # This run's update replaced the previous keys: those that it had read, or another run's.
        undone |= find_undone_keys(before, read_previous_keys(stage), in_use)
    if undone:
        names = name_keys(",".join(sorted(undone)))
        raise click.ClickException(KEYS_DIFFER.format(in_use=name_keys(in_use), undone=names))


NO_INDEX = """\
no function was deployed: the table {table} lacks {index}, without which lists fail. Add it, and
type `make deploy STAGE={stage}`, which waits until it is filled:
  aws dynamodb update-table --cli-input-json '{request}'"""


def check_indexes(stage: str, *, waits: bool) -> None:
    """Raise ClickException if the table that functions use lacks an index of the template, because
    it was restored or adopted.

    :param waits: Whether to wait first until all its indexes can be read.
    """
    properties = read_template(stage)["Resources"]["EventsTable"]["Properties"]
    table_name = read_config(stage).get("EVENTS_TABLE_NAME", properties["TableName"])
    states = await_indexes(table_name, waits=waits)
    for index in properties["GlobalSecondaryIndexes"]:
        if index["IndexName"] not in states:
            keys = [key["AttributeName"] for key in index["KeySchema"]]
            definitions = properties["AttributeDefinitions"]
            request = {
                "TableName": table_name,
                "AttributeDefinitions": [
                    each for each in definitions if each["AttributeName"] in keys
                ],
                "GlobalSecondaryIndexUpdates": [{"Create": index}],
            }
            raise click.ClickException(
                NO_INDEX.format(
                    stage=stage,
                    table=table_name,
                    index=index["IndexName"],
                    request=json.dumps(request),
                )
            )


def await_indexes(table_name: str, *, waits: bool = True) -> dict[str, str]:
    """Wait until all indexes of a table can be read and another one can be changed, and print
    progress each minute. Return the state of the table, under `table`, and of each index, by name.

    CloudFormation completes when DynamoDB begins to fill an index, which takes hours for a large
    table.

    :param waits: False to return the present states.
    """
    dynamodb = boto3.client("dynamodb")
    for seconds in itertools.count():
        table = dynamodb.describe_table(TableName=table_name)["Table"]
        states = {"table": table["TableStatus"]}
        for index in table.get("GlobalSecondaryIndexes", ()):
            states[index["IndexName"]] = index.get("IndexStatus", "ACTIVE")  # of emulators
        busy = [f"{name} {state}" for name, state in states.items() if state != "ACTIVE"]
        if not (busy and waits):
            break
        if seconds % 60 == 0:
            waited = f"{seconds // 60} min"
            print(f"waiting for {table_name}, {waited}: {', '.join(busy)}", flush=True)
        time.sleep(1)
    return states


WAIT: Any = {"Delay": 1, "MaxAttempts": 1800}
NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
NAME_IS_TAKEN = """\
{reason}
Something has a name of this stage already: a queue, topic, secret or alarm made by hand,
or by `make package`."""
BUSY = """\
{error}
If somebody else makes or updates this stage, wait until that is done. Then type the same command
again, which completes it."""


def _create_change_set(
    stage: str, template: Any, given: dict[str, str], known: set[str], cloudformation: Any
) -> dict[str, str] | None:
    """Create a change set that can be executed, and return its ARN and that of the stack, or None
    if nothing changes; raise ClickException with CloudFormation's reason.

    A new stack imports the table and the log groups that a deleted stack left.

    :param given: The values to set, by variable.
    :param known: The variables whose values the stack has; empty if it is to be created.
    """
    parameters: list[Json] = [{"ParameterKey": "Stage", "ParameterValue": stage}]
    for key, variable in PARAMETERS.items():
        if variable in given:
            parameters.append({"ParameterKey": key, "ParameterValue": given[variable]})
        elif variable in known:
            parameters.append({"ParameterKey": key, "UsePreviousValue": True})
    options: Json = {"ChangeSetType": "UPDATE"}
    if not known:
        options = {"ChangeSetType": "CREATE", "OnStackFailure": "DELETE"}
    created = cloudformation.create_change_set(
        StackName=stack_name(stage),
        ChangeSetName=f"resources-{time.time_ns()}",
        TemplateBody=json.dumps(template),
        Parameters=parameters,
        Tags=[{"Key": key, "Value": value} for key, value in tags_of(stage).items()],
        ImportExistingResources=True,
        **options,
    )
    # IAM looks at the stack, not at the change set.
    change_set = {"StackName": created["StackId"], "ChangeSetName": created["Id"]}
    try:
        cloudformation.get_waiter("change_set_create_complete").wait(
            **change_set, WaiterConfig=WAIT
        )
    except WaiterError as error:
        if known:
            cloudformation.delete_change_set(**change_set)
        elif "Error" not in error.last_response:  # the stack stays in review, with nothing in it
            cloudformation.delete_stack(StackName=created["StackId"])
        reason = error.last_response.get("StatusReason") or BUSY.format(error=error)
        if any(text in reason for text in NO_CHANGES):
            return None
        if "ResourceExistenceCheck" in reason:
            reason = NAME_IS_TAKEN.format(reason=reason)
        raise click.ClickException(reason) from None
    return change_set


NOBODY = (
    "alarms reach nobody: no subscription of {topic} is confirmed (docs/runbook.md, Which alarm)"
)


def check_alarms(topic: str) -> None:
    """Print a line if nobody has confirmed a subscription to the topic of the alarms."""
    attributes = boto3.client("sns").get_topic_attributes(TopicArn=topic)["Attributes"]
    if attributes["SubscriptionsConfirmed"] == "0":
        print(NOBODY.format(topic=topic))


STILL_DEPLOYED = """\
still deployed, and in need of queues and secret: {running}.
`make destroy STAGE={stage}` deletes them first. What `make package` made goes with its own
stack."""


def delete(stage: str, stack: Json | None, cloudformation: Any) -> None:
    """Delete the stack if it exists, but not the table and the log groups; raise ClickException
    while functions are deployed, which would run without queues and secret.
    """
    running = sorted(find_functions(stage))
    if running:
        raise click.ClickException(STILL_DEPLOYED.format(running=", ".join(running), stage=stage))
    if stack is None:
        print(f"there is no stack {stack_name(stage)} in {cloudformation.meta.region_name}")
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


NEWER = """\
{stage} was deployed by version {newer}, and this checkout has {own}, which would remove what that
version made. Update the checkout. To go back to older code (docs/operations.md, A bad deploy must
be undone), in a checkout of version {newer}:
  git checkout GOOD_COMMIT && git checkout @{{-1}} -- .chalice/deployed
  git checkout @{{-1}} -- .chalice/config.json .chalice/policies
  export AWS_DEFAULT_REGION={region}
  chalice deploy --stage {stage} && python -m tools.gateway {stage} && make smoke"""


def _find_stack(stage: str, cloudformation: Any) -> Json | None:
    """Return the stage's stack, or None if there is none; raise ClickException if a newer version
    deployed it.
    """
    try:
        [stack] = cloudformation.describe_stacks(StackName=stack_name(stage))["Stacks"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationError":
            raise
        return None
    newer = outputs_of(stack).get("Version", "0")
    if _numbers(newer) > _numbers(__version__):
        raise click.ClickException(
            NEWER.format(
                stage=stage,
                newer=newer,
                own=__version__,
                region=cloudformation.meta.region_name,
            )
        )
    return stack  # type: ignore[no-any-return]


def _numbers(version: str) -> list[int]:
    return list(map(int, version.split(".")))


def _wait(stack_id: str, wanted: Collection[str], cloudformation: Any) -> Json:
    """Wait until CloudFormation has completed what it does to a stack, and return the stack; raise
    ClickException with the first failure unless its status is one of `wanted`.
    """
    while True:
        [stack] = cloudformation.describe_stacks(StackName=stack_id)["Stacks"]
        if not stack["StackStatus"].endswith("_IN_PROGRESS"):
            break
        time.sleep(1)
    if stack["StackStatus"] in wanted:
        return stack  # type: ignore[no-any-return]
    # the newest first
    events = cloudformation.describe_stack_events(StackName=stack_id)["StackEvents"]
    latest = itertools.takewhile(
        lambda event: event.get("ResourceStatusReason") != "User Initiated", events
    )
    reason = "see the events of the stack"
    for event in latest:
        if event["ResourceStatus"].endswith("_FAILED"):
            reason = f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason')}"
    raise click.ClickException(f"{stack['StackStatus']}: {reason}")


CONFIRM = """\
nothing was deleted. make destroy STAGE={stage} CONFIRM={stage} deletes all but table and log
groups: for good the secret with webhook URL, API keys and signing secrets. Store what this
prints:
  aws secretsmanager get-secret-value --secret-id triggers-api-{stage}-settings \\
    --query SecretString --output text"""


@click.command()
@click.argument("stage")
@click.argument(
    "act",
    type=click.Choice(["update", "deploy", "check", "delete", "export"]),
    default="update",
)
@click.option("--go", is_flag=True)
def main(stage: str, act: str, go: bool) -> None:
    try:
        cloudformation = boto3.client("cloudformation")
        if act == "export":
            export_subscriptions(read_config(stage))
            return
        check_account(stage)
        read_config(stage)
        if act == "check" and os.environ.get("CONFIRM") != stage:
            raise click.ClickException(CONFIRM.format(stage=stage))
        stack = find_own_stack(
            stage, is_deleting=act in ("check", "delete"), cloudformation=cloudformation
        )
        match act:
            case "check":
                restore_record(stage)
            case "delete":
                delete(stage, stack, cloudformation)
            case _:
                is_deploying = act == "deploy"
                if is_deploying:
                    check_runtime(stage)
                update_stage(
                    stage,
                    stack,
                    is_deploying=is_deploying,
                    is_confirmed=go,
                    cloudformation=cloudformation,
                )
    except (ApiError, *AWS_ERRORS) as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
