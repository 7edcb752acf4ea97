"""`make resources STAGE=dev`: create or update the stack of resources.json, with one change set.

Parameters of an existing stack keep their values unless the environment has others, and GO=1 is on
the command line.
"""

import itertools
import json
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import boto3
import click
from botocore.exceptions import ClientError, WaiterError

from chalicelib import __version__, deps
from chalicelib.infra.errors import AWS_ERRORS, ApiError
from chalicelib.infra.parsing import Json
from tools.changes import (
    OF_EVENT_SOURCES,
    PARAMETERS,
    UnconfirmedError,
    add_keys,
    find_changes,
    find_undone_keys,
    have_same_entries,
    name_keys,
    outputs_of,
    read_previous_keys,
    read_settings,
    read_values,
    remove_keys,
)
from tools.export import export_subscriptions
from tools.function_changes import print_function_changes
from tools.stage import (
    STAND_INS,
    check_account,
    check_place,
    check_runtime,
    find_functions,
    read_config,
    read_template,
    restore_record,
    stack_name,
    tags_of,
)

REQUIRED = ("ZAPIER_WEBHOOK_URL", "API_KEYS")
# the others: no keys, signatures, alarms
NEVER_EMPTY = ("ZAPIER_WEBHOOK_URL", "QUIET_ALARM_HOURS", "DASHBOARD", *OF_EVENT_SOURCES)
FIRST_TIME = """\
{missing} must be set, the first time only:
  ZAPIER_WEBHOOK_URL       where events go: an https URL, none (consumers pull them),
                           or subscriptions (to those alone)
  API_KEYS                 what `make api-key NAME=acme` prints, separated by commas
  WEBHOOK_SIGNING_SECRETS  optional: what `make signing-secret` prints; without it,
                           your webhook's pushes are not signed, and no tokens
  ALARM_EMAIL              optional: the address that alarms are mailed to
  ALARM_URL                optional: an https URL that alarms are posted to
  QUIET_ALARM_HOURS        optional: alarm when no event came for so many hours
  DASHBOARD                optional: none leaves the dashboard out, $3 a month beyond three"""
UNCONFIRMED = """\
{unchanged}. The environment has other settings than {changes}
Leave them as they are: unset these variables. Or apply them: GO=1 behind the same command."""
OF_CHECKOUT = """\
{unchanged}. Keep the values on the left: get what a colleague has committed of .chalice
(git pull), or write them into .chalice/config.json. Or apply those on the right: GO=1 behind the
same command."""
NOTHING = "nothing was changed"
ONLY_KEY = "no function was deployed; only REMOVE_KEY was applied"
NO_SETTINGS = """\
nothing was changed. The settings cannot be read: the secret triggers-api-{stage}-settings was
deleted ({reason}).
Until 30 days after its deletion, or as many as were chosen then, restore it:
  aws secretsmanager restore-secret --secret-id triggers-api-{stage}-settings
After that, make it again. CloudFormation has the values that `make resources` set last:
  make resources STAGE={stage} NEW_SECRET=1"""
KEYS_DIFFER = """\
somebody else changed API_KEYS at the same time, and one change undid the other.
  in use: {in_use}
  added or taken out in vain: {undone}
Type the change again that is not in effect."""
NEWER = """\
{stage} was deployed by version {newer}, and this checkout has {own}, which would remove what that
version made. Update the checkout. To go back to older code (docs/operations.md, A bad deploy must
be undone), in a checkout of version {newer}:
  git checkout GOOD_COMMIT && git checkout @{{-1}} -- .chalice/deployed
  export AWS_DEFAULT_REGION={region}
  chalice deploy --stage {stage} && python -m tools.gateway {stage} && make smoke"""
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
NO_INDEX = """\
no function was deployed: the table {table} lacks {index}, without which lists fail. Add it, and
type `make deploy STAGE={stage}`, which waits until it is filled:
  aws dynamodb update-table --cli-input-json '{request}'"""
NOBODY = (
    "alarms reach nobody: no subscription of {topic} is confirmed (docs/runbook.md, Which alarm)"
)
BUSY = """\
{error}
If somebody else makes or updates this stage, wait until that is done. Then type the same command
again, which completes it."""
COMPLETE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE")
# How an interrupted run may have left the stack, which can then be created or updated again.
USABLE = (*COMPLETE, "UPDATE_ROLLBACK_COMPLETE")
NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
WAIT: Any = {"Delay": 1, "MaxAttempts": 1800}


def find_own_stack(stage: str, *, is_deleting: bool, cloudformation: Any) -> Json | None:
    """Return the stage's stack, or None; raise ClickException unless the stage is to be changed
    from here. A stack in review, which was never created, is deleted; so is one whose deletion was
    begun by a run that was stopped.
    """
    stack = _find_stack(stage, cloudformation)
    if stack and stack["StackStatus"] in ("REVIEW_IN_PROGRESS", "DELETE_IN_PROGRESS"):
        cloudformation.delete_stack(StackName=stack["StackId"])
        _wait(stack["StackId"], ("DELETE_COMPLETE",), cloudformation)
        stack = None
    check_place(stage, has_stack=stack is not None, is_deleting=is_deleting)
    return stack


def update_stage(
    stage: str,
    stack: Json | None,
    *,
    is_deploying: bool,
    is_confirmed: bool,
    cloudformation: Any,
) -> None:
    """Create or update the stack, and what else `chalice deploy` and the functions need; raise
    ClickException, SettingsError, or what boto3 raises.

    :param is_deploying: Whether `chalice deploy` comes next, with what it changes of functions.
    :param is_confirmed: Whether settings that differ from those of the stage are applied.
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


@dataclass(frozen=True)
class Plan:
    """What an update changes of a stage's settings."""

    # The values to apply, by variable; others stay.
    applied: dict[str, str]
    # A line for each of them that differs from the stage's.
    changes: list[str]
    # API_KEYS as they are before the update.
    keys_before: str
    # Why no function may be deployed after the update; empty: functions may be deployed.
    refusal: str


def plan_update(
    stage: str,
    stack: Json | None,
    secret: dict[str, str],
    *,
    is_deploying: bool,
    is_confirmed: bool,
) -> Plan:
    """Compare the environment and, when deploying, this checkout with the stage; raise
    UnconfirmedError if they differ and that is not confirmed, SettingsError if a value is unusable,
    and ClickException if one is missing.

    A key that REMOVE_KEY names is taken out without confirmation, and then nothing else changes.

    :param secret: What the stage's secret has, by variable.
    """
    given = _given(stage)
    removed = os.environ.get("REMOVE_KEY", "")
    is_only_key_removed = bool(removed) and not is_confirmed
    to_apply = {} if is_only_key_removed else given
    deps.load_checked({**STAND_INS, **read_config(stage), **to_apply})
    values = read_values(stage, stack, secret) if stack and (given or removed) else {}
    has_function_changes = is_deploying and print_function_changes(stage)
    keys_before = values.get("API_KEYS", "")
    removal = remove_keys(removed, keys_before, read_previous_keys(stage) if removed else "")
    if removed or "API_KEYS" in given:
        keys = add_keys(given.get("API_KEYS", ""), removal)
        given["API_KEYS"] = keys_before if have_same_entries(keys, keys_before) else keys
    missing = [name for name in REQUIRED if name not in given.keys() | _parameters_of(stack)]
    if missing:
        raise click.ClickException(FIRST_TIME.format(missing=" and ".join(missing)))
    if is_only_key_removed:
        applied = {"API_KEYS": ",".join(removal.left)}
        for change in find_changes(given, values | applied):
            print(f"left as it is: {change}")
        # `chalice deploy` reads these from the environment, and cannot leave them as they are.
        read_by_chalice = {name: given[name] for name in OF_EVENT_SOURCES if name in given}
        changes = find_changes(read_by_chalice, values) if is_deploying else []
        refusal = _refuse(stage, changes, has_function_changes, ONLY_KEY)
        return Plan(applied, find_changes(applied, values), keys_before, refusal)
    changes = find_changes(given, values)
    refusal = _refuse(stage, changes, has_function_changes, NOTHING)
    if refusal and not is_confirmed:
        raise UnconfirmedError(refusal)
    return Plan(given, changes, keys_before, "")


def _refuse(stage: str, changes: list[str], has_function_changes: bool, unchanged: str) -> str:
    """Return why a run ends without confirmation, empty if nothing differs.

    :param changes: A line for each setting of the environment that differs from the stage's.
    :param unchanged: What the run has not changed.
    """
    refusals = []
    if changes:
        told = "\n  ".join([f"stack {stack_name(stage)}", *changes])
        refusals.append(UNCONFIRMED.format(unchanged=unchanged, changes=told))
    if has_function_changes:
        refusals.append(OF_CHECKOUT.format(unchanged=unchanged))
    return "\n".join(refusals)


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
    known = _parameters_of(stack)
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


def _parameters_of(stack: Json | None) -> set[str]:
    """Return the variables whose parameters a stack has."""
    parameters = stack["Parameters"] if stack else ()
    return {PARAMETERS.get(parameter["ParameterKey"], "") for parameter in parameters}


def _read_or_make_secret(stage: str, stack: Json, cloudformation: Any) -> dict[str, str]:
    """Return the settings in the stage's secret, by variable. If it was deleted, make it again if
    NEW_SECRET is set, or raise ClickException.
    """
    try:
        return read_settings(stage)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code not in ("ResourceNotFoundException", "InvalidRequestException"):
            raise
        # InvalidRequestException: it is still there, and waits for its deletion.
        if code == "InvalidRequestException" or not os.environ.get("NEW_SECRET"):
            reason = error.response["Error"]["Message"]
            raise click.ClickException(NO_SETTINGS.format(stage=stage, reason=reason)) from None
    template = read_template(stage)
    settings = template["Resources"].pop("Settings")
    # CloudFormation knows nothing of the deletion: it makes again what an update took out before.
    apply_template(stage, template, stack, cloudformation, applied={}, changes=[])
    template["Resources"]["Settings"] = settings
    apply_template(stage, template, stack, cloudformation, applied={}, changes=[])
    return read_settings(stage)


def check_keys(stage: str, meant: str, before: str) -> None:
    """Raise ClickException if another run changed API_KEYS while this one did, and either change
    undid the other.

    :param meant: API_KEYS as this run set them.
    :param before: API_KEYS as this run found them.
    """
    in_use = read_settings(stage)["API_KEYS"]
    undone = find_undone_keys(before, meant, in_use)
    if not have_same_entries(before, meant):  # by an update, which replaced the previous ones
        undone |= find_undone_keys(before, read_previous_keys(stage), in_use)
    if undone:
        names = name_keys(",".join(sorted(undone)))
        raise click.ClickException(KEYS_DIFFER.format(in_use=name_keys(in_use), undone=names))


def check_indexes(stage: str, *, waits: bool) -> None:
    """Raise ClickException if the table that functions use, which may be restored or adopted, lacks
    an index of the template's.

    :param waits: Whether to wait first until its indexes can be read.
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
    """Wait until all indexes of the table can be read, and another one can be changed; print
    progress each minute. Return the states of table and indexes, by their names.

    CloudFormation is done when DynamoDB begins to fill an index, which takes hours for a large
    table.
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


def _create_change_set(
    stage: str, template: Any, given: dict[str, str], known: set[str], cloudformation: Any
) -> dict[str, str] | None:
    """Return the ARNs of a change set that can be executed and of its stack, or None if nothing
    changes; raise ClickException with CloudFormation's reason.

    A new stack imports the table and the log groups that a deleted one left.
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


def check_alarms(topic: str) -> None:
    """Print a line if alarms, which go to a topic, reach nobody."""
    attributes = boto3.client("sns").get_topic_attributes(TopicArn=topic)["Attributes"]
    if attributes["SubscriptionsConfirmed"] == "0":
        print(NOBODY.format(topic=topic))


def delete(stage: str, stack: Json | None, cloudformation: Any) -> None:
    """Delete the stack, if it exists; the table and the log groups stay.

    Raise ClickException while functions are deployed: they would run without queues and secret.
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


def _given(stage: str) -> dict[str, str]:
    """Return what the environment sets of the template's parameters, by variable; raise
    ClickException if .chalice/config.json is unusable.
    """
    given = {}
    config = read_config(stage)  # takes precedence when Chalice reads the variables of sources
    for variable in (*PARAMETERS.values(), *(OF_EVENT_SOURCES.keys() - config.keys())):
        value = " ".join(os.environ.get(variable, "").split())
        if value or (variable in os.environ and variable not in NEVER_EMPTY):
            given[variable] = value
    return given


def _find_stack(stage: str, cloudformation: Any) -> Json | None:
    """Return the stage's stack, or None; raise ClickException if a newer version deployed it."""
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
    """Return the stack when CloudFormation is through; raise ClickException with the first failure
    if the status is not wanted.
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
    reason = "the events of the stack tell why"
    for event in latest:
        if event["ResourceStatus"].endswith("_FAILED"):
            reason = f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason')}"
    raise click.ClickException(f"{stack['StackStatus']}: {reason}")


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
