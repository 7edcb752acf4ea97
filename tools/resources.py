"""`make resources STAGE=dev`: create or update the stack of resources.json, with one change set.

Parameters of an existing stack keep their values unless the environment has new ones. DynamoDB
changes one index of a table at a time, and older functions read the index that goes: a stage of
0.4.0 needs a second run after `make deploy`.
"""

import itertools
import json
import os
import re
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import boto3
import click
from botocore.exceptions import ClientError, WaiterError
from chalice.config import Config

from chalicelib import settings
from chalicelib.infra.clients import read_secret
from chalicelib.infra.errors import AWS_ERRORS, SettingsError
from tools import upgrade
from tools.export import export_subscriptions

ROOT = Path(__file__).parent.parent

# The variable that sets each parameter of the template. All but the first may be empty: no keys,
# signatures, mail.
PARAMETERS = {
    "ZapierWebhookUrl": "ZAPIER_WEBHOOK_URL",
    "ApiKeys": "API_KEYS",
    "WebhookSigningSecrets": "WEBHOOK_SIGNING_SECRETS",
    "AlarmEmail": "ALARM_EMAIL",
}
# The suffix of each function's name, and so of its log group's.
FUNCTION_SUFFIXES = {
    "APIHandler": "",
    "Worker": "-worker",
    "Sweep": "-sweep",
    "CheckDlq": "-check_dlq",
}
STILL_DEPLOYED = """\
still deployed, and in need of queues and secret: {running}. `make deploy STAGE={stage}` completes
.chalice/deployed/{stage}.json: then destroy again. What `make package` made goes with its own stack."""  # noqa: E501
STAND_INS = {**dict.fromkeys(settings.REQUIRED, "https://stand-in"), "API_KEYS": ""}
FIRST_TIME = """\
{missing} must be set, the first time only:
  ZAPIER_WEBHOOK_URL       where events go: an https URL, none (consumers pull them), or subscriptions (to those alone)
  API_KEYS                 what `make api-key NAME=acme` prints, separated by commas
  WEBHOOK_SIGNING_SECRETS  optional: what `make signing-secret` prints; without it, no signatures and no tokens
  ALARM_EMAIL              optional: the address that alarms are mailed to"""  # noqa: E501
UNLIKE = """\
the functions of {stage} have, or RUNTIME names, {wanted}, and .venv has {own}. Type one of these:
  rm -r .venv && make deploy STAGE={stage} PYTHON={newest} RUNTIME={newest}
  make deploy STAGE={stage} RUNTIME={own}"""
NAME_IS_TAKEN = """\
{reason}
Something has a name of this stage already: a queue, topic, secret or alarm made by hand, or by `make package`."""  # noqa: E501
CONFIRM = """\
nothing was deleted. make destroy STAGE={stage} CONFIRM={stage} deletes all but table and log groups: for good the
secret with webhook URL, API keys and signing secrets, from which those of subscribers derive. Store what this prints:
  aws secretsmanager get-secret-value --secret-id triggers-api-{stage}-settings --query SecretString --output text"""  # noqa: E501
AGAIN = """\
still to do: `make deploy STAGE={stage}`, unless it is running, and then `make resources STAGE={stage}` once more: older
functions use an index that goes, and what they stored is not looked up before"""  # noqa: E501
NOBODY = (
    "alarms reach nobody: no subscription of {topic} is confirmed (docs/runbook.md, Which alarm)"
)
COMPLETE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE")
NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
WAIT: Any = {"Delay": 1, "MaxAttempts": 1800}


def update(stage: str, cloudformation: Any) -> bool:
    """Create or update the stack; return whether an index is kept, or used, that the template does
    not have.

    Raise ClickException, SettingsError, or what boto3 raises.
    """
    given, stack = _given(stage), _find_stack(stage, cloudformation)
    # by a run that was stopped
    if stack and stack["StackStatus"] in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS"):
        print(f"waiting for stack {_stack_name(stage)}: {stack['StackStatus']}", flush=True)
        _wait(stack["StackId"], COMPLETE, cloudformation)
    known, template = _known_parameters(stack), read_template(stage)
    missing = [
        PARAMETERS[key]
        for key in ("ZapierWebhookUrl", "ApiKeys")
        if key not in given.keys() | known
    ]
    if missing:
        raise click.ClickException(FIRST_TIME.format(missing=" and ".join(missing)))
    parameters: list[dict[str, Any]] = [
        {"ParameterKey": key, "ParameterValue": value} for key, value in given.items()
    ]
    parameters += [
        {"ParameterKey": key, "UsePreviousValue": True}
        for key in known & PARAMETERS.keys() - given.keys()
    ]
    # older ones
    again = any(
        each["LoggingConfig"]["LogFormat"] != "JSON" for each in find_functions(stage).values()
    )
    if known:
        before = cloudformation.get_template(StackName=_stack_name(stage))["TemplateBody"]
        again |= upgrade.keep_indexes(template, before, are_read=again)
    options = (
        {"ChangeSetType": "UPDATE"}
        if known
        else {"ChangeSetType": "CREATE", "OnStackFailure": "DELETE"}
    )
    options |= {"StackName": _stack_name(stage), "ChangeSetName": f"resources-{time.time_ns()}"}
    tags = [{"Key": "Service", "Value": "triggers-api"}, {"Key": "Environment", "Value": stage}]
    contents = {"TemplateBody": json.dumps(template), "Parameters": parameters, "Tags": tags}
    try:  # and import the table and the log groups that a deleted stack left
        change_set = cloudformation.create_change_set(
            **options, **contents, ImportExistingResources=True
        )
        name = {"ChangeSetName": change_set["Id"]}
        cloudformation.get_waiter("change_set_create_complete").wait(**name, WaiterConfig=WAIT)
    except (ClientError, WaiterError) as error:
        reason = str(error)
        if isinstance(error, WaiterError):
            reason = error.last_response.get("StatusReason", reason)
            cloudformation.delete_change_set(**name)
        if "ResourceExistenceCheck" in reason:
            reason = NAME_IS_TAKEN.format(reason=reason)
        if not any(text in reason for text in NO_CHANGES):
            raise click.ClickException(reason) from None
        print(f"stack {_stack_name(stage)}: no changes")
        return again
    taken = [
        PARAMETERS[key] + ("" if given[key] else " (empty)") for key in PARAMETERS if key in given
    ]
    print(
        f"stack {_stack_name(stage)}; settings taken from the environment: "
        f"{', '.join(taken) or 'none'}"
    )
    pages = cloudformation.get_paginator("describe_change_set").paginate(**name)
    for change in pages.search("Changes[].ResourceChange"):
        print(
            f"  {change['Action']:<7} {change['LogicalResourceId']}  {change['ResourceType']}",
            flush=True,
        )
    cloudformation.execute_change_set(**name)
    print(
        (
            "waiting for CloudFormation: it goes on if this is stopped, and may fill a new "
            "index for hours"
        ),
        flush=True,
    )
    _wait(change_set["StackId"], COMPLETE, cloudformation)
    print("done")
    return again


def check_alarms(stage: str, cloudformation: Any) -> None:
    """Print a line if alarms reach nobody."""
    [stack] = cloudformation.describe_stacks(StackName=_stack_name(stage))["Stacks"]
    [topic] = [
        output["OutputValue"]
        for output in stack["Outputs"]
        if output["OutputKey"] == "DLQAlarmTopicArn"
    ]
    if (
        boto3.client("sns").get_topic_attributes(TopicArn=topic)["Attributes"][
            "SubscriptionsConfirmed"
        ]
        == "0"
    ):
        print(NOBODY.format(topic=topic))


def check_runtime(stage: str) -> None:
    """Raise ClickException if the Python of deployed functions would change, and RUNTIME does not
    name the new one.

    `chalice deploy` takes the Python that it runs on.
    """
    own, named = Config().lambda_python_version, os.environ.get("RUNTIME")
    deployed = sorted({function["Runtime"] for function in find_functions(stage).values()})
    wanted = [named] if named else deployed or [own]
    if wanted != [own]:
        raise click.ClickException(
            UNLIKE.format(stage=stage, wanted=" and ".join(wanted), own=own, newest=wanted[-1])
        )


def delete(stage: str, cloudformation: Any) -> None:
    """Delete the stack, if it exists; the table and the log groups stay.

    Raise ClickException while functions are deployed: they would run without queues and secret.
    """
    if running := sorted(find_functions(stage)):
        raise click.ClickException(STILL_DEPLOYED.format(running=", ".join(running), stage=stage))
    stack = _find_stack(stage, cloudformation)
    if stack is None:
        print(f"there is no stack {_stack_name(stage)} in {cloudformation.meta.region_name}")
        return
    cloudformation.update_termination_protection(
        StackName=stack["StackId"], EnableTerminationProtection=False
    )
    cloudformation.delete_stack(StackName=stack["StackId"])
    _wait(stack["StackId"], ("DELETE_COMPLETE",), cloudformation)
    print(
        "stack deleted; kept, for the next stack to adopt: the table "
        f"triggers-api-{stage}-events, the log groups"
    )


def check_place(stage: str) -> None:
    """Raise ClickException if Chalice's record says that the stage is in another region or
    account.
    """
    record = _record(stage)
    if not record.exists():
        return
    sts = boto3.client("sts")
    here = f"{sts.meta.region_name}:{sts.get_caller_identity()['Account']}"
    recorded = re.findall(r"arn:[\w-]+:(?:lambda|sqs):([\w-]+:\d+):", record.read_text())
    if elsewhere := set(recorded) - {here}:
        raise click.ClickException(
            f"{stage} is deployed in {' and '.join(sorted(elsewhere))}, not in {here}: "
            f"{record.relative_to(ROOT)} says so. Roles and that file are named after the stage: "
            "choose another name for another region or account."
        )


def restore_record(stage: str) -> None:
    """Write Chalice's record of the event source and the API if it is missing: a deployment was
    interrupted.

    Chalice finds everything else by name. It would fail at the event source, and then create a
    second API.
    """
    record = _record(stage)
    recorded = json.loads(record.read_text())["resources"] if record.exists() else []
    if {"sqs_event", "rest_api"} <= {resource["resource_type"] for resource in recorded}:
        return
    sources = boto3.client("lambda").get_paginator("list_event_source_mappings").paginate()
    queue = {"resource_type": "sqs_event", "queue": f"triggers-api-{stage}-inbox-queue"}
    keys = (
        "{name: 'worker-sqs-event-source', queue_arn: EventSourceArn, event_uuid: UUID, "
        "lambda_arn: FunctionArn}"
    )
    ours = f"EventSourceMappings[?ends_with(FunctionArn, ':triggers-api-{stage}-worker')].{keys}"
    found = [queue | source for source in sources.search(ours)]
    found += [
        {"name": "rest_api", "resource_type": "rest_api", "rest_api_id": api_id}
        for api_id in find_apis(stage)
    ]
    if found:
        record.parent.mkdir(exist_ok=True)
        record.write_text(
            json.dumps({"resources": found, "schema_version": "2.0", "backend": "api"}, indent=2)
        )
        print(f"{record.relative_to(ROOT)}: restored after an interrupted deployment")


def find_functions(stage: str) -> dict[str, Any]:
    """Return the configurations of the stage's functions that are deployed, by the functions'
    names.
    """
    names = {f"triggers-api-{stage}{suffix}" for suffix in FUNCTION_SUFFIXES.values()}
    deployed = (
        boto3.client("lambda").get_paginator("list_functions").paginate().search("Functions[]")
    )
    return {each["FunctionName"]: each for each in deployed if each["FunctionName"] in names}


def find_apis(stage: str) -> list[str]:
    """Return the ids of the stage's REST APIs: one, or none before the first deployment."""
    apis = boto3.client("apigateway").get_paginator("get_rest_apis").paginate()
    return list(apis.search(f"items[?name == 'triggers-api-{stage}'].id"))


def read_template(stage: str) -> Any:
    """Return resources.json with the stage's names spelled out: CloudFormation imports no
    others.
    """

    def spell_out(part: dict[str, Any]) -> Any:
        name = str(part.get("Fn::Sub", "${")).replace("${Stage}", stage)
        return part if "${" in name else name

    return json.loads((ROOT / "resources.json").read_text(), object_hook=spell_out)


def read_config(stage: str) -> dict[str, str]:
    """Return the stage's variables of .chalice/config.json; raise ClickException if something there
    is unusable.
    """
    try:
        config = json.loads((ROOT / ".chalice" / "config.json").read_text())
    except ValueError as error:
        raise click.ClickException(f".chalice/config.json is not JSON: {error}") from error
    if stage not in config["stages"]:
        raise click.ClickException(
            f"STAGE is unusable: .chalice/config.json has {' and '.join(config['stages'])}"
        )
    configured = config["environment_variables"] | config["stages"][stage]["environment_variables"]
    if unquoted := [name for name, value in configured.items() if not isinstance(value, str)]:
        raise click.ClickException(
            f".chalice/config.json: write values in quotes: {', '.join(unquoted)}"
        )
    return configured  # type: ignore[no-any-return]


def _given(stage: str) -> dict[str, str]:
    """Return the parameters that the environment sets; raise SettingsError if one is unusable, or
    config.json is.
    """
    configured, given = read_config(stage), {"Stage": stage}
    for key, variable in PARAMETERS.items():
        value = " ".join(os.environ.get(variable, "").split())
        if value or (variable in os.environ and key != "ZapierWebhookUrl"):
            given[key] = value
    settings.load(
        {
            **STAND_INS,
            **configured,
            **{PARAMETERS[key]: given[key] for key in PARAMETERS.keys() & given},
        }
    )
    return given


def _find_stack(stage: str, cloudformation: Any) -> dict[str, Any] | None:
    try:
        [stack] = cloudformation.describe_stacks(StackName=_stack_name(stage))["Stacks"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationError":
            raise
        return None
    return stack  # type: ignore[no-any-return]


def _known_parameters(stack: dict[str, Any] | None) -> set[str]:
    """Return the parameters whose values the stack has: none if it does not exist."""
    # In review: interrupted before its first change set was executed.
    if stack is None or stack["StackStatus"] == "REVIEW_IN_PROGRESS":
        return set()
    return {parameter["ParameterKey"] for parameter in stack.get("Parameters", ())}


def _stack_name(stage: str) -> str:
    return f"triggers-api-{stage}-resources"


def _record(stage: str) -> Path:
    """Return the path of Chalice's record of what it deployed."""
    return ROOT / ".chalice" / "deployed" / f"{stage}.json"


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
    failures = [event for event in latest if event["ResourceStatus"].endswith("_FAILED")]
    reasons = [
        f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason')}" for event in failures
    ]
    raise click.ClickException(
        f"{stack['StackStatus']}: {(reasons or ['the events of the stack tell why'])[-1]}"
    )


@click.command()
@click.argument("stage")
@click.argument(
    "act",
    type=click.Choice(["update", "deploy", "check", "delete", "fill", "export"]),
    default="update",
)
def main(stage: str, act: str) -> None:
    if act == "check" and os.environ.get("CONFIRM") != stage:
        raise click.ClickException(CONFIRM.format(stage=stage))
    try:
        cloudformation = boto3.client("cloudformation")
        table = read_config(stage).get("EVENTS_TABLE_NAME", f"triggers-api-{stage}-events")
        check_place(stage)
        if act == "deploy":
            check_runtime(stage)
        if act == "delete":
            delete(stage, cloudformation)
        elif act in ("update", "deploy"):
            again = update(stage, cloudformation)
            cloudformation.update_termination_protection(
                StackName=_stack_name(stage), EnableTerminationProtection=True
            )
            restore_record(stage)
            if again:
                print(AGAIN.format(stage=stage))
            else:
                upgrade.fill(table, once=True)
            check_alarms(stage, cloudformation)
        elif act == "fill":
            upgrade.fill(table)
        elif act == "export":
            export_subscriptions(settings.load(read_config(stage), read_secret))
    except (SettingsError, *AWS_ERRORS) as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
