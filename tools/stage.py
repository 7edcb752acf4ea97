"""What is known of a stage: its template, its configuration, and what Chalice deployed of it."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import click
from botocore.exceptions import ClientError
from chalice.config import Config

from chalicelib.infra.parsing import Json

ROOT = Path(__file__).parent.parent
# The suffix of each function's name, and so of its log group's.
FUNCTION_SUFFIXES = {
    "APIHandler": "",
    "Worker": "-worker",
    "SlowWorker": "-slow_worker",
    "Sweep": "-sweep",
    "CheckDlq": "-check_dlq",
}
RUNTIMES = (
    "python3.11",
    "python3.12",
    "python3.13",
    "python3.14",
)  # Lambda's; the tests run on each
UNLIKE = """\
the functions of {stage} have, or RUNTIME names, {wanted}, and .venv has {own}. Type one of these:
  rm -r .venv && make deploy STAGE={stage} PYTHON={newest} RUNTIME={newest}
  make deploy STAGE={stage} RUNTIME={own}"""


class Found(NamedTuple):
    """A resource that Chalice may have made. `values` are those of its entry in the record."""

    name: str
    exists: bool
    values: Json


def read_template(stage: str) -> Any:
    """Return resources.json with the stage's names spelled out: CloudFormation imports no
    others.
    """

    def spell_out(part: Json) -> Any:
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
    unquoted = [name for name, value in configured.items() if not isinstance(value, str)]
    if unquoted:
        raise click.ClickException(
            f".chalice/config.json: write values in quotes: {', '.join(unquoted)}"
        )
    return configured  # type: ignore[no-any-return]


def table_in_use(stage: str) -> str:
    """Return the name of a stage's table: after a restore, it is not the stack's."""
    try:
        configured = read_config(stage)
    except click.ClickException:  # a stage of `make run` alone
        configured = {}
    return configured.get("EVENTS_TABLE_NAME", f"triggers-api-{stage}-events")


def find_functions(stage: str) -> Json:
    """Return the configurations of the stage's functions that are deployed, by the functions'
    names.
    """
    names = {f"triggers-api-{stage}{suffix}" for suffix in FUNCTION_SUFFIXES.values()}
    pages = boto3.client("lambda").get_paginator("list_functions").paginate()
    functions = {function["FunctionName"]: function for function in pages.search("Functions[]")}
    return {name: functions[name] for name in names & functions.keys()}


def find_apis(stage: str) -> list[str]:
    """Return the ids of the stage's REST APIs: one, or none before the first deployment."""
    apis = boto3.client("apigateway").get_paginator("get_rest_apis").paginate()
    return list(apis.search(f"items[?name == 'triggers-api-{stage}'].id"))


def own_runtime() -> str:
    """Return the Python that Chalice deploys functions with, which is this one; raise
    ClickException if it is not one of RUNTIMES.
    """
    own = Config().lambda_python_version
    if own not in RUNTIMES:
        raise click.ClickException(
            f".venv has {own}, and functions may have {', '.join(RUNTIMES)}: install one of these, "
            f"rm -r .venv, and type PYTHON={RUNTIMES[-1]} behind the same command"
        )
    return own


def check_runtime(stage: str) -> None:
    """Raise ClickException if the Python of deployed functions would change, and RUNTIME does not
    name the new one.
    """
    own = own_runtime()
    named = os.environ.get("RUNTIME")
    deployed = sorted({function["Runtime"] for function in find_functions(stage).values()})
    wanted = [named] if named else deployed or [own]
    if wanted != [own]:
        raise click.ClickException(
            UNLIKE.format(stage=stage, wanted=" and ".join(wanted), own=own, newest=wanted[-1])
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
    elsewhere = set(recorded) - {here}
    if elsewhere:
        raise click.ClickException(
            f"{stage} is deployed in {' and '.join(sorted(elsewhere))}, not in {here}: "
            f"{record.relative_to(ROOT)} says so. Roles and that file are named after the stage: "
            "choose another name for another region or account."
        )


def restore_record(stage: str, *, is_deleting: bool = False) -> None:
    """Write what AWS has of the stage into Chalice's record where that says otherwise: a deployment
    was interrupted, or the record is another commit's.

    When it deploys, Chalice finds functions, roles and rules by name; it would fail at an event
    source that is not recorded, and create a second API. It deletes what is recorded, and fails
    at a resource that does not exist. With `is_deleting`, entries of resources that do not exist
    are removed.
    """
    record = _record(stage)
    try:
        content = json.loads(record.read_text())
    except (FileNotFoundError, ValueError):  # there is none, or only its beginning
        content = {"resources": [], "schema_version": "2.0", "backend": "api"}
    recorded = {resource["name"]: resource for resource in content["resources"]}
    resources = dict(recorded)
    for found in _find_resources(stage, recorded):
        if found.exists:
            resources[found.name] = recorded.get(found.name, {"name": found.name}) | found.values
        elif is_deleting:
            resources.pop(found.name, None)
    if resources != recorded:
        content["resources"] = list(resources.values())
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps(content, indent=2))
        print(f"{record.relative_to(ROOT)}: corrected by what AWS has")


def _find_resources(stage: str, recorded: Json) -> Iterator[Found]:
    """Yield each resource that Chalice may have made."""
    iam = boto3.client("iam")
    events = boto3.client("events")
    functions = find_functions(stage)
    pages = boto3.client("lambda").get_paginator("list_event_source_mappings").paginate()
    sources = {source["FunctionArn"]: source for source in pages.search("EventSourceMappings[]")}
    for suffix in FUNCTION_SUFFIXES.values():
        name = suffix[1:] or "api_handler"
        prefix = f"triggers-api-{stage}-{name}"
        role = _describe(iam.get_role, RoleName=prefix).get("Role", {})
        role_values = {"role_name": prefix, "role_arn": role.get("Arn")}
        yield Found(f"{name}_role", bool(role), {"resource_type": "iam_role", **role_values})
        function = functions.get(f"triggers-api-{stage}{suffix}", {})
        arn = function.get("FunctionArn")
        function_values = {"resource_type": "lambda_function", "lambda_arn": arn}
        yield Found(name, bool(function), function_values)
        rule = _describe(events.describe_rule, Name=f"{prefix}-event")
        rule_values = {"resource_type": "cloudwatch_event", "rule_name": f"{prefix}-event"}
        yield Found(f"{name}-event", bool(rule), rule_values)
        source = sources.get(arn, {})
        queue_arn = source.get("EventSourceArn", "")
        source_values = {
            "resource_type": "sqs_event",
            "queue": queue_arn.rpartition(":")[2],
            "queue_arn": queue_arn,
            "event_uuid": source.get("UUID"),
            "lambda_arn": arn,
        }
        yield Found(f"{name}-sqs-event-source", bool(source), source_values)
    api_ids = find_apis(stage)
    recorded_id = recorded.get("rest_api", {}).get("rest_api_id")
    api_id = recorded_id if recorded_id in api_ids else "".join(api_ids[:1])
    api_values = {"resource_type": "rest_api", "rest_api_id": api_id}
    yield Found("rest_api", bool(api_id), api_values)


def _describe(call: Callable[..., Json], **name: str) -> Json:
    """Return a response, which is empty if there is nothing of that name."""
    try:
        return call(**name)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("NoSuchEntity", "ResourceNotFoundException"):
            raise
    return {}


def _record(stage: str) -> Path:
    """Return the path of Chalice's record of what it deployed."""
    return ROOT / ".chalice" / "deployed" / f"{stage}.json"
