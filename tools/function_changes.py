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
DESCRIPTION = rf"({re.escape(CATALOGUE.name)})?(:[0-9a-f]{{8}})?"


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
    """Return a line for each setting of a deployed function that would change."""
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
    names = dict.fromkeys(live | own, "")
    return find_changes(names | own, names | live)


def _find_tag_changes(function: Json, config: Config) -> list[str]:
    """Return a line for each tag of a deployed function that would change or be removed."""
    tags = boto3.client("lambda").list_tags(Resource=function["FunctionArn"])["Tags"]
    names = [name for name in tags if name != "aws-chalice" and not name.startswith("aws:")]
    own = {f"{TAG}{name}": config.tags.get(name, "") for name in names}
    return find_changes(own, {f"{TAG}{name}": tags[name] for name in names})


def _find_catalogue_change(description: str) -> list[str]:
    """Return a line if the deployment would replace or remove the catalogue that a function has;
    empty if not, or if it is not known which catalogue the function has.

    :param description: The description of the deployed function.
    """
    noted = re.fullmatch(DESCRIPTION, description)
    if not noted or not noted[1]:
        return []  # a first catalogue replaces nothing
    own = describe_catalogue()
    if own and not noted[2]:
        return []  # version 1.0 deployed it, and did not write its SHA-256
    return find_changes({CATALOGUE.name: own}, {CATALOGUE.name: description})


def _find_lost_permissions(live: Json, config: Config) -> list[str]:
    """Return a line for each resource with permissions in the policy of a function's role that the
    policy of this checkout lacks. Permissions that this checkout adds are not listed.

    :param live: The deployed policy of the role; empty: there is none.
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
    for scope, actions in _actions_of(live).items():
        lost = sorted(actions - own_actions[scope])
        if lost:
            lines.append(f"policy: \N{MINUS SIGN} {', '.join(lost)} on {scope}")
    return lines


def _actions_of(policy: Json) -> defaultdict[str, set[str]]:
    """Return the actions in a policy's statements, by resource. Other members of a statement, such
    as its condition, are appended to the resource.
    """
    actions = defaultdict[str, set[str]](set)
    for statement in _listed(policy["Statement"]):
        terms = {
            name: value
            for name, value in statement.items()
            if name not in ("Sid", "Action", "Resource") and (name, value) != ("Effect", "Allow")
        }
        suffix = f" {json.dumps(terms, sort_keys=True)}" if terms else ""
        for resource in _listed(statement.get("Resource", "NotResource")):
            actions[f"{resource}{suffix}"] |= {*_listed(statement.get("Action", "NotAction"))}
    return actions


def _listed(value: Any) -> list[Any]:
    """Return the value as a list: IAM also accepts a single entry in place of a list."""
    return value if isinstance(value, list) else [value]
