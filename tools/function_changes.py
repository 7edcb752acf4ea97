"""List the changes that `chalice deploy` from this checkout would make to a stage's functions."""

import hashlib
import json
import re
from collections import defaultdict
from typing import Any

import boto3
import click
import jmespath
from chalice.config import Config
from chalice.constants import DEFAULT_LAMBDA_MEMORY_SIZE, DEFAULT_LAMBDA_TIMEOUT

from chalicelib.infra.parsing import Json
from chalicelib.settings import CATALOGUE
from tools.changes import TAG, find_changes
from tools.configuration import load_config
from tools.stage import FUNCTION_NAMES, chalice_folder, find_functions, read_policy

# A JMESPath expression for the settings that operators choose for a function. It is applied to a
# function as Lambda describes it. RES_OPTIONS is left out, because it comes with a version.
SETTINGS = """
merge(
    Environment.Variables || `{}`,
    {
        subnet_ids: join(' ', sort(VpcConfig.SubnetIds || `[]`)),
        security_group_ids: join(' ', sort(VpcConfig.SecurityGroupIds || `[]`)),
        lambda_memory_size: to_string(MemorySize || ''),
        lambda_timeout: to_string(Timeout || ''),
        reserved_concurrency: to_string(ReservedConcurrentExecutions || ''),
        RES_OPTIONS: ''
    }
)"""
# A pattern of the descriptions that `make deploy` writes: the catalogue's name, and the beginning
# of its SHA-256. Version 1.0 writes no SHA-256, and keeps the SHA-256 of this version when it is
# deployed again. A description that does not match was written by hand.
DESCRIPTION = rf"(?P<catalogue>{re.escape(CATALOGUE.name)})?(?P<digest>:[0-9a-f]{{8}})?"


def print_function_changes(stage: str) -> bool:
    """Print a line for each setting of a function that this checkout would change, and for each
    tag, permission and catalogue that it would remove; return whether there is a line.

    If a line is not about all functions, the names of its functions are printed below it.
    """
    from_disk = load_config(stage)
    functions = find_functions(stage)
    changed = defaultdict(list)  # names of functions, by line
    for name, function in functions.items():
        suffix = name.removeprefix(f"triggers-api-{stage}")
        function_name = FUNCTION_NAMES[suffix]
        config = Config(stage, function_name, config_from_disk=from_disk)
        for line in (
            *_find_setting_changes(function, config),
            *_find_tag_changes(function, config),
            *_find_catalogue_change(function["Description"]),
            *_find_lost_permissions(read_policy(stage, suffix), config),
        ):
            changed[line].append(function_name)
    if changed:
        print(f"the functions of {stage} have other settings than this checkout")
    for line, changed_functions in changed.items():
        print(f"  {line}")
        if len(changed_functions) < len(functions):
            print(f"    of {', '.join(changed_functions)}")
    return bool(changed)


def describe_catalogue() -> str:
    """Return the description that `make deploy` gives to functions, which identifies this
    checkout's catalogue; empty if there is no catalogue.
    """
    if not CATALOGUE.exists():
        return ""
    return f"{CATALOGUE.name}:{hashlib.sha256(CATALOGUE.read_bytes()).hexdigest()[:8]}"


def _find_setting_changes(function: Json, config: Config) -> list[str]:
    """Return a line for each setting of a deployed function that would change.

    :param function: The deployed function as Lambda lists it.
    :param config: Chalice's configuration of this function, in this checkout.
    """
    read_concurrency = boto3.client("lambda").get_function_concurrency
    reserved = read_concurrency(FunctionName=function["FunctionName"])
    live = jmespath.search(SETTINGS, function | reserved)
    described = {
        "Environment": {"Variables": config.environment_variables},
        "VpcConfig": {
            "SubnetIds": config.subnet_ids,
            "SecurityGroupIds": config.security_group_ids,
        },
        "MemorySize": config.lambda_memory_size or DEFAULT_LAMBDA_MEMORY_SIZE,
        "Timeout": config.lambda_timeout or DEFAULT_LAMBDA_TIMEOUT,
        "ReservedConcurrentExecutions": config.reserved_concurrency,
    }
    own = jmespath.search(SETTINGS, described)
    # A variable that only one of the two has is empty in the other.
    all_empty = dict.fromkeys(live | own, "")
    return find_changes(given=all_empty | own, values=all_empty | live)


def _find_tag_changes(function: Json, config: Config) -> list[str]:
    """Return a line for each tag of a deployed function that would change or be removed. Tags that
    this checkout adds are not listed.

    :param function: The deployed function as Lambda lists it.
    :param config: Chalice's configuration of this function, in this checkout.
    """
    tags = boto3.client("lambda").list_tags(Resource=function["FunctionArn"])["Tags"]
    # Without the tags that Chalice and AWS set themselves.
    names = [name for name in tags if name != "aws-chalice" and not name.startswith("aws:")]
    own = {f"{TAG}{name}": config.tags.get(name, "") for name in names}
    live = {f"{TAG}{name}": tags[name] for name in names}
    return find_changes(given=own, values=live)


def _find_catalogue_change(description: str) -> list[str]:
    """Return a line if the deployment would replace or remove the catalogue of event types that a
    function has; empty if not, or if it is not known which catalogue the function has.

    :param description: The description of the deployed function, which identifies its catalogue.
    """
    deployed = re.fullmatch(DESCRIPTION, description)
    if not deployed:
        return []  # the description was written by hand
    if not deployed["catalogue"]:
        return []  # the function has no catalogue, and a first one replaces nothing
    own = describe_catalogue()
    if own and not deployed["digest"]:
        return []  # version 1.0 deployed it, and did not write its SHA-256
    return find_changes(given={CATALOGUE.name: own}, values={CATALOGUE.name: description})


def _find_lost_permissions(live: Json, config: Config) -> list[str]:
    """Return a line for each resource with permissions in the policy of a function's role that the
    policy of this checkout lacks. Permissions that this checkout adds are not listed. Raise
    ClickException if the policy of this checkout cannot be read.

    :param live: The deployed policy of the role; empty: there is none.
    :param config: Chalice's configuration of the function, in this checkout.
    """
    if not live:
        return []
    file = config.iam_policy_file or f"policy-{config.chalice_stage}.json"  # Chalice's default
    try:
        own = json.loads((chalice_folder() / file).read_text())
    except (OSError, ValueError) as error:
        raise click.ClickException(f".chalice/{file} cannot be read: {error}") from error
    own_actions = _actions_of(own)
    lines = []
    for resource, actions in _actions_of(live).items():
        lost = sorted(actions - own_actions[resource])
        if lost:
            lines.append(f"policy: \N{MINUS SIGN} {', '.join(lost)} on {resource}")
    return lines


def _actions_of(policy: Json) -> defaultdict[str, set[str]]:
    """Return the actions in a policy's statements, by resource. Other members of a statement, such
    as its condition, are appended to the resource as JSON, so that two statements are compared only
    if these are the same.

    A statement can have NotAction in place of Action, and NotResource in place of Resource. Then
    the word `NotAction` stands for the actions or `NotResource` for the resource, and the member
    itself is among the members that are appended.
    """
    actions_by_resource = defaultdict[str, set[str]](set)
    for statement in _listed(policy["Statement"]):
        actions = _listed(statement.get("Action", "NotAction"))
        resources = _listed(statement.get("Resource", "NotResource"))
        other_members = {
            name: value
            for name, value in statement.items()
            if name not in ("Sid", "Action", "Resource") and (name, value) != ("Effect", "Allow")
        }
        suffix = f" {json.dumps(other_members, sort_keys=True)}" if other_members else ""
        for resource in resources:
            actions_by_resource[f"{resource}{suffix}"].update(actions)
    return actions_by_resource


def _listed(value: Any) -> list[Any]:
    """Return the value as a list: IAM also accepts a single entry in place of a list."""
    return value if isinstance(value, list) else [value]
