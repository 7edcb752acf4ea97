"""What the environment and this checkout would change of a stage's settings, without secrets."""

import re

import boto3
import click
import jmespath
from chalice.config import Config
from chalice.constants import DEFAULT_LAMBDA_MEMORY_SIZE, DEFAULT_LAMBDA_TIMEOUT

from chalicelib.infra.clients import read_secret
from chalicelib.infra.parsing import Json
from chalicelib.settings import BY_VARIABLE, CATALOGUE, COPIES_ONLY, PULL_ONLY
from tools.stage import find_functions, load_config


class UnconfirmedError(click.ClickException):
    """What is asked differs from what the stage has, and nothing was changed."""

    exit_code = 2


# The variable that sets each parameter of the template.
PARAMETERS = {
    "ZapierWebhookUrl": "ZAPIER_WEBHOOK_URL",
    "ApiKeys": "API_KEYS",
    "WebhookSigningSecrets": "WEBHOOK_SIGNING_SECRETS",
    "SuspendedTenants": "SUSPENDED_TENANTS",
    "AlarmEmail": "ALARM_EMAIL",
    "AlarmUrl": "ALARM_URL",
    "QuietAlarmHours": "QUIET_ALARM_HOURS",
    "Dashboard": "DASHBOARD",
}
# What `chalice deploy` reads: the function whose event source has it, and the member there.
OF_EVENT_SOURCES = {
    "WORKER_BATCH_WINDOW_SECONDS": ("worker", "MaximumBatchingWindowInSeconds"),
    "WORKER_MAX_CONCURRENCY": ("worker", "ScalingConfig.MaximumConcurrency"),
    "SLOW_MAX_CONCURRENCY": ("slow_worker", "ScalingConfig.MaximumConcurrency"),
}
# What an operator sets of a function, as Lambda describes it, by name. RES_OPTIONS comes with a
# version; of descriptions only that counts which `make deploy` wrote: it names the catalogue.
OF_FUNCTION = """
merge(
    Environment.Variables || `{}`,
    {
        subnet_ids: join(' ', sort(VpcConfig.SubnetIds || `[]`)),
        security_group_ids: join(' ', sort(VpcConfig.SecurityGroupIds || `[]`)),
        lambda_memory_size: to_string(MemorySize || ''),
        lambda_timeout: to_string(Timeout || ''),
        reserved_concurrency: to_string(ReservedConcurrentExecutions || ''),
        "event_types.json": Description == 'event_types.json' && Description || '',
        RES_OPTIONS: ''
    }
)"""
# What can be shown of that: a variable that is no setting may be secret.
SHOWN = {
    "SETTINGS_SECRET",
    "subnet_ids",
    "security_group_ids",
    "lambda_memory_size",
    "lambda_timeout",
    "reserved_concurrency",
}
SHOWN |= {name for name, row in BY_VARIABLE.items() if row.repr}
NOT_SET = "(not set)"


def merge_keys(given: str, in_use: str, removed: str) -> str:
    """Return the entries of API_KEYS that a stage is to have: a name has the entries that are
    given, names that are not given keep theirs, and what is removed goes, also from what is given.

    :param removed: Names, or names with the beginning of a digest, separated by commas.
    """
    live = split_names(in_use)
    entries = live
    known = ", ".join(re.findall(r"[^\s,][^,:]*:\w{8}", in_use))
    for key in re.split(" *, *", removed.strip(", ")) if removed else ():
        beginning = key if ":" in key else f"{key}:"
        left = [entry for entry in entries if not entry.startswith(beginning)]
        if left == entries:
            raise UnconfirmedError(
                f"nothing was changed: no API key is '{key}'; there are: {known}"
            )
        entries = left
    # API_KEYS may still be exported with a key that has leaked.
    removed_keys = [_key_of(entry) for entry in live if entry not in entries]
    given_entries = [entry for entry in split_names(given) if _key_of(entry) not in removed_keys]
    names = set(map(_name_of, given_entries))
    entries = [entry for entry in entries if _name_of(entry) not in names] + given_entries
    kept = ",".join(sorted(set(map(_name_of, entries)) - names))
    if names and kept:
        print(f"not in API_KEYS, and kept: {kept} (to take them out: REMOVE_KEY='{kept}')")
    return in_use if set(entries) == set(live) else ",".join(entries)


def split_names(names: str) -> list[str]:
    """Return what stands between commas, without spaces around it."""
    return re.findall(r"[^\s,](?:[^,]*[^\s,])?", names)


def _name_of(entry: str) -> str:
    return entry.partition(":")[0]


def _key_of(entry: str) -> list[str]:
    """Return the name and the digest of an entry, whatever its scopes are."""
    return entry.split(":")[:2]


def find_changes(given: dict[str, str], values: dict[str, str]) -> list[str]:
    """Return a line for each variable whose value is not that of the stage, with the values if they
    are no secrets.

    :param given: What is to be set, by variable.
    :param values: What the stage has, by variable.
    """
    return [
        f"{name}: {difference}"
        for name, value in given.items()
        # no event source is there yet
        if (difference := _difference(name, value, values.get(name, value)))
    ]


def tell_function_changes(stage: str) -> bool:
    """Print a line for each setting of a function that .chalice/config.json of this checkout would
    change, and for a catalogue that would go; return whether there is one.

    Functions differ in what they have of their own, and after an interrupted deployment.
    """
    from_disk = load_config(stage)
    read_concurrency = boto3.client("lambda").get_function_concurrency
    changes: dict[str, None] = {}  # a line that several functions have stands once
    for name, function in find_functions(stage).items():
        live = jmespath.search(OF_FUNCTION, function | read_concurrency(FunctionName=name))
        suffix = name.removeprefix(f"triggers-api-{stage}")
        config = Config(stage, suffix[1:] or "api_handler", config_from_disk=from_disk)
        described = {
            "Environment": {"Variables": config.environment_variables},
            "VpcConfig": {
                "SubnetIds": config.subnet_ids,
                "SecurityGroupIds": config.security_group_ids,
            },
            "MemorySize": config.lambda_memory_size or DEFAULT_LAMBDA_MEMORY_SIZE,
            "Timeout": config.lambda_timeout or DEFAULT_LAMBDA_TIMEOUT,
            "ReservedConcurrentExecutions": config.reserved_concurrency,
            # one that is new takes nothing away
            "Description": CATALOGUE.exists() and live[CATALOGUE.name],
        }
        own = jmespath.search(OF_FUNCTION, described)
        names = dict.fromkeys(live | own, "")
        changes |= dict.fromkeys(find_changes(names | own, names | live))
    if changes:
        told = "\n  ".join(changes)
        print(f"the functions of {stage} have other settings than this checkout\n  {told}")
    return bool(changes)


def read_values(stage: str, stack: Json) -> dict[str, str]:
    """Return the settings of a stage, by variable. CloudFormation does not show those that are
    secret: they are in the secret and in the topic.
    """
    values = dict.fromkeys(PARAMETERS.values(), "")
    for parameter in stack["Parameters"]:
        values[PARAMETERS.get(parameter["ParameterKey"], "")] = parameter["ParameterValue"]
    text = read_secret(f"triggers-api-{stage}-settings")
    values |= re.findall(r"^ *([A-Z_]+) *= *(.*?) *$", text, re.MULTILINE)
    topics = boto3.client("sns").get_paginator("list_subscriptions_by_topic")
    subscribed = topics.paginate(TopicArn=outputs_of(stack)["DLQAlarmTopicArn"])
    endpoints = subscribed.search("Subscriptions[?Protocol=='https'].Endpoint")
    values["ALARM_URL"] = " ".join(endpoints)
    sources = boto3.client("lambda").get_paginator("list_event_source_mappings").paginate()
    for variable, (function, member) in OF_EVENT_SOURCES.items():
        name = f":triggers-api-{stage}-{function}"
        path = f"EventSourceMappings[?ends_with(FunctionArn, '{name}')].{member}"
        values |= [(variable, str(value)) for value in sources.search(path)]
    return values


def outputs_of(stack: Json) -> dict[str, str]:
    """Return the outputs of a stack, which has none before it is complete."""
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", ())}


def _difference(name: str, new: str, old: str) -> str:
    """Return how a value differs from the one before, or nothing. The values of names in SHOWN are
    told.
    """
    if new == old:
        return ""
    if name in ("API_KEYS", "SUSPENDED_TENANTS"):
        told = _name_of if name == "API_KEYS" else str
        new_entries = {*split_names(new)}
        old_entries = {*split_names(old)}
        names = [f"+ {told(entry)}" for entry in new_entries - old_entries]
        names += [f"\N{MINUS SIGN} {told(entry)}" for entry in old_entries - new_entries]
        return ", ".join(sorted(names))
    if name in SHOWN:
        return f"{old or NOT_SET} \N{RIGHTWARDS ARROW} {new or NOT_SET}"
    if not new:
        return "removed"
    if name == "ZAPIER_WEBHOOK_URL" and new.split("/")[:3] != old.split("/")[:3]:
        return new if new in (PULL_ONLY, COPIES_ONLY) else "another host"
    return "another value"
