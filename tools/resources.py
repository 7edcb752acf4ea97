"""`make resources STAGE=dev`: create or update the stack of resources.json, with one change set.

The parameters of an existing stack keep their values, unless the environment has other values and
GO=1 is on the command line.
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
    """Return the stage's stack, or None if there is no stack. Raise ClickException unless commands
    may change the stage in this account and region.

    A stack that is still in review, and so was never created, is deleted. If an earlier run was
    stopped during a deletion, the deletion is completed.

    :param is_deleting: Whether the caller is going to delete the stage.
    """
    stack = _find_stack(stage, cloudformation)
    if stack and stack["StackStatus"] in ("REVIEW_IN_PROGRESS", "DELETE_IN_PROGRESS"):
        cloudformation.delete_stack(StackName=stack["StackId"])
        _wait(stack["StackId"], ("DELETE_COMPLETE",), cloudformation)
        stack = None
    check_place(stage, has_stack=stack is not None, is_deleting=is_deleting)
    return stack


COMPLETE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE")
# States in which an interrupted run may have left the stack. It can then be updated again.
USABLE = (*COMPLETE, "UPDATE_ROLLBACK_COMPLETE")


def update_stage(
    stage: str,
    stack: Json | None,
    *,
    is_deploying: bool,
    is_confirmed: bool,
    cloudformation: Any,
) -> None:
    """Create or update the stage's stack, protect it from deletion, and correct Chalice's record.

    Raise UnconfirmedError if nothing was changed because settings differ, or if `chalice deploy`
    must not follow. Raise ClickException or SettingsError if something is unusable or failed, or an
    error of boto3.

    :param stack: The present stack; None: the stack is created.
    :param is_deploying: Whether `chalice deploy` follows.
    :param is_confirmed: Whether settings of the environment that differ from the stage's settings
        are applied. Otherwise they are refused.
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
    if plan.refusal:  # a key was taken out, but other differences were not confirmed
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
    """Create or update the stack with one change set, print the changes, and wait until they are
    made. Return the updated stack; raise ClickException with CloudFormation's reason.

    :param stack: The present stack; None: the stack is created.
    :param applied: The new values of parameters, by variable. Other parameters keep their values.
    :param changes: Lines to print, one for each setting that changes.
    """
    known = variables_of(stack)
    change_set = _create_change_set(stage, template, applied, known, cloudformation)
    if change_set is None:
        print(f"stack {stack_name(stage)}: no changes")
        return stack or {}  # never {}: the creation of a stack is a change
    print("\n  ".join([f"stack {stack_name(stage)}", *changes]))
    pages = cloudformation.get_paginator("describe_change_set").paginate(**change_set)
    # What is done to each resource that changes, such as `Add`, by the resource's logical id.
    actions = {}
    for change in pages.search("Changes[].ResourceChange"):
        name = change["LogicalResourceId"]
        actions[name] = change["Action"]
        print(f"  {actions[name]:<7} {name}  {change['ResourceType']}")
    table_name = template["Resources"]["EventsTable"]["Properties"]["TableName"]
    if actions.get("EventsTable") == "Modify":  # DynamoDB changes one index at a time
        await_indexes(table_name)
    cloudformation.execute_change_set(**change_set)
    print("waiting for CloudFormation, which continues if you stop this command", flush=True)
    updated = _wait(change_set["StackName"], COMPLETE, cloudformation)
    if "EventsTable" in actions:
        await_indexes(table_name)
    print("done")
    return updated


NO_SETTINGS = """\
nothing was changed. The settings cannot be read, because the secret
triggers-api-{stage}-settings was deleted ({reason}).
A deleted secret can be restored for 30 days, unless another period was chosen when it was deleted:
  aws secretsmanager restore-secret --secret-id triggers-api-{stage}-settings
After that, create it again. CloudFormation has kept the values that `make resources` set last:
  make resources STAGE={stage} NEW_SECRET=1"""


def _read_or_make_secret(stage: str, stack: Json, cloudformation: Any) -> dict[str, str]:
    """Return the settings in the stage's secret, by variable.

    If the secret was deleted for good and the variable NEW_SECRET is set, create the secret again,
    with the values of the stack's parameters, by two updates of the stack. Raise ClickException if
    the secret is scheduled for deletion, or was deleted and NEW_SECRET is not set.

    :param stack: The description of the stage's stack.
    """
    try:
        return read_settings(stage)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code not in ("ResourceNotFoundException", "InvalidRequestException"):
            raise
        # InvalidRequestException: the secret is scheduled for deletion, and can be restored.
        if code == "InvalidRequestException" or not os.environ.get("NEW_SECRET"):
            reason = error.response["Error"]["Message"]
            raise click.ClickException(NO_SETTINGS.format(stage=stage, reason=reason)) from None
    template = read_template(stage)
    settings = template["Resources"].pop("Settings")
    # CloudFormation does not notice the deletion. It creates the secret only after an update that
    # removed it from the stack.
    keep_parameters: dict[str, str] = {}  # no new values, and so no changes of settings to print
    apply_template(stage, template, stack, cloudformation, applied=keep_parameters, changes=[])
    template["Resources"]["Settings"] = settings
    apply_template(stage, template, stack, cloudformation, applied=keep_parameters, changes=[])
    return read_settings(stage)


KEYS_DIFFER = """\
somebody else changed API_KEYS at the same time, and one change undid the other.
  in use: {in_use}
  added or taken out in vain: {undone}
Repeat the command whose change is not in effect."""


def check_keys(stage: str, meant: str, before: str) -> None:
    """Raise ClickException if another run changed API_KEYS at the same time, and one of the two
    changes undid the other.

    :param meant: The API_KEYS that this run set.
    :param before: The API_KEYS that this run had read. They are the same if it changed none.
    """
    in_use = read_settings(stage)["API_KEYS"]
    # If the other run's update was the later one: the part of this run's change that it undid.
    undone = find_undone_keys(before, meant, in_use)
    if not have_same_entries(before, meant):
        # If this run's update was the later one, it replaced the keys of the other run, which are
        # the previous keys now: the part of the other run's change that this run undid. If there
        # was no other run, the previous keys are those before this run, and nothing was undone.
        undone |= find_undone_keys(before, read_previous_keys(stage), in_use)
    if undone:
        names = name_keys(",".join(sorted(undone)))
        raise click.ClickException(KEYS_DIFFER.format(in_use=name_keys(in_use), undone=names))


NO_INDEX = """\
no function was deployed: the table {table} lacks {index}, without which lists fail. Add the index,
and repeat `make deploy STAGE={stage}`, which waits until the index is filled:
  aws dynamodb update-table --cli-input-json '{request}'"""


def check_indexes(stage: str, *, waits: bool) -> None:
    """Raise ClickException if the table that the functions use lacks an index of the template. A
    table that was restored or adopted may lack one.

    :param waits: Whether to wait first until all indexes of the table can be read.
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
                    definition for definition in definitions if definition["AttributeName"] in keys
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
    """Wait until a table and all its indexes are active, and print the progress each minute. Return
    the status of each index by its name, and the status of the table by the name `table`.

    CloudFormation completes when DynamoDB begins to fill an index. DynamoDB then needs hours for a
    large table, refuses reads of the index, and refuses changes of other indexes.

    :param waits: Whether to wait. Otherwise the present states are returned.
    """
    dynamodb = boto3.client("dynamodb")
    for seconds in itertools.count():
        table = dynamodb.describe_table(TableName=table_name)["Table"]
        states = {"table": table["TableStatus"]}
        for index in table.get("GlobalSecondaryIndexes", ()):
            # Some emulators leave the status out.
            states[index["IndexName"]] = index.get("IndexStatus", "ACTIVE")
        unfinished = [f"{name} {state}" for name, state in states.items() if state != "ACTIVE"]
        if not (unfinished and waits):
            break
        if seconds % 60 == 0:
            waited = f"{seconds // 60} min"
            print(f"waiting for {table_name}, {waited}: {', '.join(unfinished)}", flush=True)
        time.sleep(1)
    return states


WAIT: Any = {"Delay": 1, "MaxAttempts": 1800}
NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
NAME_IS_TAKEN = """\
{reason}
A queue, topic, secret or alarm with a name of this stage exists already. It was created by hand or
by `make package`."""
BUSY = """\
{error}
If somebody else makes or updates this stage, wait until that is done. Then repeat this command,
which completes the update."""


def _create_change_set(
    stage: str, template: Any, given: dict[str, str], known: set[str], cloudformation: Any
) -> dict[str, str] | None:
    """Create a change set, and return the parameters that name it in calls of CloudFormation;
    return None if nothing would change. If it cannot be created, raise ClickException with
    CloudFormation's reason.

    A new stack imports the table and the log groups that a deleted stack left behind.

    :param given: The values to set, by variable.
    :param known: The variables whose values the stack has; empty: the stack is created.
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
    # By ARN, because the deployer's IAM policy names the stack, not its change sets.
    change_set = {"StackName": created["StackId"], "ChangeSetName": created["Id"]}
    try:
        cloudformation.get_waiter("change_set_create_complete").wait(
            **change_set, WaiterConfig=WAIT
        )
    except WaiterError as error:
        if known:
            cloudformation.delete_change_set(**change_set)
        elif "Error" not in error.last_response:
            # The last response describes a change set that failed. It leaves an empty stack in
            # review. An error in place of the description shows that somebody else has deleted the
            # change set or the stack.
            cloudformation.delete_stack(StackName=created["StackId"])
        reason = error.last_response.get("StatusReason") or BUSY.format(error=error)
        if any(text in reason for text in NO_CHANGES):
            return None
        if "ResourceExistenceCheck" in reason:
            reason = NAME_IS_TAKEN.format(reason=reason)
        raise click.ClickException(reason) from None
    return change_set


NOBODY = (
    "alarms reach nobody, because no subscription to {topic} is confirmed (docs/runbook.md, Which "
    "alarm)"
)


def check_alarms(topic: str) -> None:
    """Print a line if nobody has confirmed a subscription to the topic of the alarms."""
    attributes = boto3.client("sns").get_topic_attributes(TopicArn=topic)["Attributes"]
    if attributes["SubscriptionsConfirmed"] == "0":
        print(NOBODY.format(topic=topic))


STILL_DEPLOYED = """\
these functions are still deployed, and need the queues and the secret: {running}.
`make destroy STAGE={stage}` deletes the functions first. Delete functions that `make package`
created with their own stack."""


def delete(stage: str, stack: Json | None, cloudformation: Any) -> None:
    """Delete the stack if it exists. The table and the log groups are kept. Raise ClickException
    while functions are deployed, because they would run without queues and secret.

    :param stack: The present stack; None: there is no stack.
    """
    running = sorted(find_functions(stage))
    if running:
        raise click.ClickException(STILL_DEPLOYED.format(running=", ".join(running), stage=stage))
    if stack is None:
        print(f"there is no stack {stack_name(stage)} in {cloudformation.meta.region_name}")
        return
    # An earlier run that was stopped may have turned the protection off. CloudFormation refuses to
    # change it for a stack whose deletion has begun.
    if stack.get("EnableTerminationProtection"):
        cloudformation.update_termination_protection(
            StackName=stack["StackId"], EnableTerminationProtection=False
        )
    cloudformation.delete_stack(StackName=stack["StackId"])
    _wait(stack["StackId"], ("DELETE_COMPLETE",), cloudformation)
    print(
        f"stack deleted. The table triggers-api-{stage}-events and the log groups are kept, and "
        "the next stack of this stage adopts them."
    )


NEWER = """\
{stage} was deployed by version {newer}. This checkout has version {own}, which would remove
resources that the newer version created. Update the checkout. To go back to older code
(docs/operations.md, A bad deploy must be undone), run in a checkout of version {newer}:
  git checkout GOOD_COMMIT && git checkout @{{-1}} -- .chalice/deployed
  git checkout @{{-1}} -- .chalice/config.json .chalice/policies
  export AWS_DEFAULT_REGION={region}
  chalice deploy --stage {stage} && python -m tools.gateway {stage} && make smoke"""


def _find_stack(stage: str, cloudformation: Any) -> Json | None:
    """Return the stage's stack, or None if there is no stack; raise ClickException if a newer
    version deployed it.
    """
    try:
        [stack] = cloudformation.describe_stacks(StackName=stack_name(stage))["Stacks"]
    except ClientError as error:
        # This is the code for a stack that does not exist.
        if error.response["Error"]["Code"] != "ValidationError":
            raise
        return None
    # "0" is older than any version: a stack whose creation was not completed has no outputs.
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
    """Return the numbers of a version such as 1.10.0, which compare as versions do."""
    return list(map(int, version.split(".")))


def _wait(stack_id: str, wanted: Collection[str], cloudformation: Any) -> Json:
    """Wait until CloudFormation has finished its work on a stack, and return the stack. Raise
    ClickException with the reason of the first failure unless the stack's status is as wanted.

    :param wanted: The statuses of success.
    """
    while True:
        [stack] = cloudformation.describe_stacks(StackName=stack_id)["Stacks"]
        if not stack["StackStatus"].endswith("_IN_PROGRESS"):
            break
        time.sleep(1)
    if stack["StackStatus"] in wanted:
        return stack  # type: ignore[no-any-return]
    # CloudFormation lists the newest events first. The present operation began with the newest
    # event that the user initiated, and its first failure is the last one that this loop finds.
    events = cloudformation.describe_stack_events(StackName=stack_id)["StackEvents"]
    reason = "see the events of the stack"
    for event in events:
        if event.get("ResourceStatusReason") == "User Initiated":
            break
        if event["ResourceStatus"].endswith("_FAILED"):
            reason = f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason')}"
    raise click.ClickException(f"{stack['StackStatus']}: {reason}")


CONFIRM = """\
nothing was deleted. make destroy STAGE={stage} CONFIRM={stage} deletes everything but the table and
the log groups. The secret with the webhook URL, API keys and signing secrets cannot be restored, so
first store its content, which this command prints:
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
    """Update or delete the resources of a stage, or export its subscriptions.

    The argument ACT is `update` for `make resources`, `deploy` if `chalice deploy` follows, `check`
    before and `delete` after `chalice delete`, and `export` for `make export-subscriptions`.

    Before anything else, the account of AWS and `.chalice/config.json` are checked (for `export`,
    only the latter). `check` also requires the variable CONFIRM with the name of the stage, and
    corrects Chalice's record of the resources that it deployed, because `chalice delete` deletes
    what the record names.

    \f
    :param go: Whether the user has confirmed the changes that need a confirmation (GO=1). Otherwise
        these changes are refused.
    """
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
