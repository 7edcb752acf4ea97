"""What is known of a stage: its template, its configuration, and what Chalice deployed of it."""

import difflib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import click
import jmespath
from botocore.exceptions import ClientError
from chalice.config import Config
from chalice.constants import DEFAULT_APIGATEWAY_STAGE_NAME

from chalicelib import __version__, deps, settings
from chalicelib.infra.errors import SettingsError
from chalicelib.infra.parsing import Json
from tools.command_line import tell_place

ROOT = Path(__file__).parent.parent
# The suffix of each function's name, and so of its log group's.
FUNCTION_SUFFIXES = {
    "APIHandler": "",
    "Worker": "-worker",
    "SlowWorker": "-slow_worker",
    "Sweep": "-sweep",
    "CheckDlq": "-check_dlq",
}
# What .chalice/config.json and Chalice's record call each function.
FUNCTION_NAMES = [suffix[1:] or "api_handler" for suffix in FUNCTION_SUFFIXES.values()]
# of a function, as Lambda describes it
IS_BUSY = "State == 'Pending' || LastUpdateStatus == 'InProgress'"
STACK_TAG = "aws:cloudformation:stack-name"
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

NOT_OWN = """\
nothing was changed: {stage} is no stage that `make deploy` made in {here}.
  functions here, and roles: {names}
  stack that they belong to: {owners}
  other regions that the roles or .chalice/deployed/{stage}.json name: {regions}
Roles have no region: what is done to them here is done to the stage {stage} wherever it is. Set
AWS_REGION to its region, or choose another name for a stage here. A stack of `make package` is
updated and deleted as docs/operations.md tells, One stack for everything."""


OTHER_ACCOUNT = """\
nothing was changed: .chalice/deployed/{stage}.json names functions of account {recorded}, and these
credentials are of account {account}. Use credentials of account {recorded}, or another name for a
stage in this account. If the stage is gone there: git rm .chalice/deployed/{stage}.json"""
MAX_VARIABLES_BYTES = 4096
# What functions read from their environment.
VARIABLES = {*settings.PARSERS, "SETTINGS_SECRET"}
# of settings that only a deployed stage has
STAND_INS = {**dict.fromkeys(settings.REQUIRED, "https://stand-in"), "API_KEYS": ""}
# How alike two names are for difflib: LOG_LEVEL and LOGLEVEL 0.94, but OTEL_LOG_LEVEL 0.78.
IS_CLOSE = 0.8
# A member that names another stage than {stage}, its policies, or a resource of it. A restored
# table of the stage may have any name.
OF_ANOTHER = (
    r'"STAGE": "(?!{stage}")[^"]*"|"\w+": "policies/(?!{stage}/)[^"/]+/[^"]*"|'
    r'"\w+": "[^"]*triggers-api-(?:(?!{stage}-)[^"]+?|{others})-'
    r'(?:events|inbox-queue|inbox-dlq|slow-queue|settings)\b[^"]*"'
)
REFUSED = """\
nothing was changed. Correct .chalice/config.json, and type the same command again:
  {faults}"""


def read_template(stage: str) -> Any:
    """Return resources.json with the stage's names spelled out: CloudFormation imports no
    others.
    """

    def spell_out(part: Json) -> Any:
        name = str(part.get("Fn::Sub", "${")).replace("${Stage}", stage)
        return part if "${" in name else name

    template = json.loads((ROOT / "resources.json").read_text(), object_hook=spell_out)
    template["Outputs"]["Version"] = {"Value": __version__}
    return template


def tags_of(stage: str) -> dict[str, str]:
    """Return the tags that all resources of a stage have, by which the bill can be split."""
    return {"Service": "triggers-api", "Environment": stage}


def stack_name(stage: str) -> str:
    """Return the name of the stack of `make resources`."""
    return f"triggers-api-{stage}-resources"


def load_config(stage: str) -> Json:
    """Return .chalice/config.json, which may lack the stage; raise ClickException if it cannot be
    read, or if what Chalice reads as an object for this stage is none.
    """
    try:
        config = json.loads((ROOT / ".chalice" / "config.json").read_text())
    except OSError as error:
        raise click.ClickException(f".chalice/config.json cannot be read: {error}") from error
    except ValueError as error:
        raise click.ClickException(f".chalice/config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise click.ClickException(".chalice/config.json must be a JSON object")
    of_stage = _member(_member(config, "stages"), stage)
    for level in (config, of_stage):
        _member(level, "environment_variables")
        _member(level, "tags")
        functions = _member(level, "lambda_functions")
        for function in functions:
            _member(_member(functions, function), "environment_variables")
    return config


def _member(parent: Json, name: str) -> Json:
    """Return an object of .chalice/config.json, empty if it is absent; raise ClickException if it
    is no object.
    """
    member = parent.get(name, {})
    if not isinstance(member, dict):
        raise click.ClickException(f".chalice/config.json: {name} must be an object")
    return member


def read_config(stage: str) -> dict[str, str]:
    """Return the variables that .chalice/config.json has for all functions of a stage; raise
    ClickException if it lacks the stage, or if something there is unusable, also for a single
    function, or belongs to another stage.
    """
    config = load_config(stage)
    stages = config.get("stages", {})
    if stage not in stages:
        there_is = f"has {' and '.join(stages)}" if stages else "has no stages"
        raise click.ClickException(f"STAGE is unusable: .chalice/config.json {there_is}")
    configured = Config(stage, "", config_from_disk=config).environment_variables
    faults = _find_faults(configured)
    for function in FUNCTION_NAMES:
        own = Config(stage, function, config_from_disk=config).environment_variables
        faults += [f"{function}: {fault}" for fault in _find_faults(own) if fault not in faults]
    # Chalice finds the queues by STAGE
    text = json.dumps([{"STAGE": settings.DEFAULTS["stage"], **configured}, stages[stage]])
    others = "|".join(stages.keys() - {stage})
    foreign = {*re.findall(OF_ANOTHER.format(stage=stage, others=others), text)}
    faults += [f"in the stage {stage}, {member} is of another stage" for member in sorted(foreign)]
    if faults:
        raise click.ClickException(REFUSED.format(faults="\n  ".join(faults)))
    return configured


def _find_faults(variables: Json) -> list[str]:
    """Return the faults of the variables of a function."""
    faults = [
        f"{name}: write its value in quotes"
        for name, value in variables.items()
        if not isinstance(value, str)
    ]
    size = len(json.dumps(variables, ensure_ascii=False).encode())
    if size > MAX_VARIABLES_BYTES:
        longest = max(variables, key=lambda name: len(str(variables[name])))
        faults.append(f"Lambda takes 4,096 bytes of variables, not {size:,}: shorten {longest}")
    for name in sorted(variables.keys() - VARIABLES):
        close = difflib.get_close_matches(name.upper(), VARIABLES, n=1, cutoff=IS_CLOSE)
        if close and not name.startswith("DD_"):  # such as DD_LOG_LEVEL, of Datadog
            faults.append(f"{name} is no setting: is {close[0]} meant?")
    texts = {name: value for name, value in variables.items() if isinstance(value, str)}
    try:
        deps.load_checked(STAND_INS | texts)
    except SettingsError as error:
        unusable = str(error).split("; ")
        # the catalogue is another file
        faults += [fault for fault in unusable if not fault.startswith(settings.CATALOGUE.name)]
    return faults


def find_functions(stage: str, region: str | None = None) -> Json:
    """Return the configurations of the stage's functions that are deployed, by the functions'
    names. Without a region, in that of the environment.
    """
    names = {f"triggers-api-{stage}{suffix}" for suffix in FUNCTION_SUFFIXES.values()}
    client = boto3.client("lambda", region_name=region)
    functions = client.get_paginator("list_functions").paginate().search("Functions[]")
    return {each["FunctionName"]: each for each in functions if each["FunctionName"] in names}


def await_functions(stage: str) -> None:
    """Wait until Lambda has made and updated the stage's functions, and tell of it. It refuses
    changes meanwhile (ResourceConflictException), for about a minute in a VPC.
    """
    client = boto3.client("lambda")
    for name in find_functions(stage):
        while jmespath.search(IS_BUSY, client.get_function_configuration(FunctionName=name)):
            print(f"waiting for {name}, which Lambda has not finished", flush=True)
            time.sleep(1)


def find_roles(stage: str) -> Json:
    """Return the roles that Chalice made for the stage's functions, by their names. They have no
    region.
    """
    get_role = boto3.client("iam").get_role
    names = [_prefix(stage, suffix) for suffix in FUNCTION_SUFFIXES.values()]
    roles = {name: _describe(get_role, RoleName=name).get("Role") for name in names}
    return {name: role for name, role in roles.items() if role}


def read_policy(stage: str, suffix: str) -> Json:
    """Return the inline policy that Chalice gave the role of a function, empty if there is none."""
    name = _prefix(stage, suffix)  # of the role, and of its policy
    call = boto3.client("iam").get_role_policy
    policy: Json = _describe(call, RoleName=name, PolicyName=name).get("PolicyDocument", {})
    return policy


def api_stage_name(stage: str) -> str:
    """Return the name of the stage at API Gateway, the last part of the API's URL."""
    config = Config(stage, config_from_disk=load_config(stage))
    return config.api_gateway_stage or DEFAULT_APIGATEWAY_STAGE_NAME


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


def check_account(stage: str) -> None:
    """Print which account, region and stage the command is about; raise ClickException if Chalice's
    record names another account.
    """
    account = tell_place(stage)
    for recorded in set(re.findall(r":lambda:[^:]+:(\d+):", _recorded(stage))) - {account}:
        raise click.ClickException(
            OTHER_ACCOUNT.format(stage=stage, recorded=recorded, account=account)
        )


def check_place(stage: str, *, has_stack: bool, is_deleting: bool) -> None:
    """Raise ClickException unless what has the stage's names was made here, and by `make deploy`.

    :param has_stack: Whether the stack of `make resources` is here: it is made first, and deleted
        last.
    """
    client = boto3.client("lambda")
    functions = find_functions(stage)
    roles = find_roles(stage)
    tags = [client.list_tags(Resource=each["FunctionArn"])["Tags"] for each in functions.values()]
    owners = {tag[STACK_TAG] for tag in tags if STACK_TAG in tag}
    here = client.meta.region_name
    recorded = re.findall(":lambda:([^:]+):", _recorded(stage))
    # A role tells the region of its latest use alone.
    regions = {*jmespath.search("*.RoleLastUsed.Region", roles), *recorded} - {here}
    is_elsewhere = any(find_functions(stage, region) for region in regions)
    # Plain `chalice deploy` makes functions before there is a stack.
    is_made_here = has_stack or (functions and not is_deleting) or not roles
    if owners or is_elsewhere or not is_made_here:
        raise click.ClickException(
            NOT_OWN.format(
                names=", ".join(sorted(functions | roles)),
                here=here,
                owners=", ".join(owners),
                regions=", ".join(regions),
                stage=stage,
            )
        )


def restore_record(stage: str) -> None:
    """Write what AWS has of the stage into Chalice's record where that says otherwise: a deployment
    was interrupted, or the record is another commit's.

    When it deploys, Chalice finds functions, roles and rules by name; it would fail at an event
    source that is not recorded, or does not exist, and create a second API. It deletes what is
    recorded, and fails at a resource that does not exist.
    """
    await_functions(stage)
    record = _record(stage)
    try:
        content = json.loads(_recorded(stage))
    except ValueError:  # there is none, or only its beginning
        content = {"resources": [], "schema_version": "2.0", "backend": "api"}
    recorded = {resource["name"]: resource for resource in content["resources"]}
    resources = dict(recorded)
    for name, found in _find_resources(stage, recorded).items():
        resources[name] = found and {"name": name, **recorded.get(name, {}), **found}
    content["resources"] = [resource for resource in resources.values() if resource]
    if content["resources"] != list(recorded.values()):
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps(content, indent=2))
        print(f"{record.relative_to(ROOT)}: corrected by what AWS has")


def _find_resources(stage: str, recorded: Json) -> dict[str, Any]:
    """Return what the record should have of each resource that Chalice may have made, or None if it
    does not exist.
    """
    found: dict[str, Any] = {}
    events = boto3.client("events")
    functions = find_functions(stage)
    roles = find_roles(stage)
    pages = boto3.client("lambda").get_paginator("list_event_source_mappings").paginate()
    sources = {source["FunctionArn"]: source for source in pages.search("EventSourceMappings[]")}
    for suffix in FUNCTION_SUFFIXES.values():
        name = suffix[1:] or "api_handler"
        prefix = _prefix(stage, suffix)
        role = roles.get(prefix)
        found[f"{name}_role"] = role and {
            "resource_type": "iam_role",
            "role_name": prefix,
            "role_arn": role["Arn"],
        }
        arn = functions.get(f"triggers-api-{stage}{suffix}", {}).get("FunctionArn")
        found[name] = arn and {"resource_type": "lambda_function", "lambda_arn": arn}
        rule = _describe(events.describe_rule, Name=f"{prefix}-event")
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
    """Take the permission to call the API's function from an API that is gone: Chalice adds that of
    a new one beside it.
    """
    client = boto3.client("lambda")
    function = {"FunctionName": f"triggers-api-{stage}"}
    policy = _describe(client.get_policy, **function).get("Policy", "{}")
    path = f"Statement[?contains(to_string(@), ':{api_id}/')].Sid"
    for statement_id in jmespath.search(path, json.loads(policy)) or ():
        client.remove_permission(StatementId=statement_id, **function)


def _prefix(stage: str, suffix: str) -> str:
    """Return what the names of a function's role and rule begin with."""
    return f"triggers-api-{stage}-{suffix[1:] or 'api_handler'}"


def _describe(call: Callable[..., Json], **name: str) -> Json:
    """Return a response, which is empty if there is nothing of that name."""
    try:
        return call(**name)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("NoSuchEntity", "ResourceNotFoundException"):
            raise
    return {}


def _recorded(stage: str) -> str:
    """Return the text of Chalice's record, which is empty if there is none."""
    record = _record(stage)
    return record.read_text() if record.exists() else ""


def _record(stage: str) -> Path:
    """Return the path of Chalice's record of what it deployed."""
    return ROOT / ".chalice" / "deployed" / f"{stage}.json"
