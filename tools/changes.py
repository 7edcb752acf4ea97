"""Settings of a stage: API keys in and out, and what would change, shown without secrets."""

import re
from dataclasses import dataclass

import boto3
import click
from botocore.exceptions import ClientError

from chalicelib.infra.parsing import Json
from chalicelib.settings import BY_VARIABLE, COPIES_ONLY, PULL_ONLY


class UnconfirmedError(click.ClickException):
    """What is asked for differs from what the stage has, and needs confirmation."""

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
# Variables that `chalice deploy` reads: the function whose event source has the value, and the path
# of the value there.
OF_EVENT_SOURCES = {
    "WORKER_BATCH_WINDOW_SECONDS": ("worker", "MaximumBatchingWindowInSeconds"),
    "WORKER_MAX_CONCURRENCY": ("worker", "ScalingConfig.MaximumConcurrency"),
    "SLOW_MAX_CONCURRENCY": ("slow_worker", "ScalingConfig.MaximumConcurrency"),
}
# Names whose values can be shown: a variable that is no setting may be secret.
SHOWN = {
    "SETTINGS_SECRET",
    "subnet_ids",
    "security_group_ids",
    "lambda_memory_size",
    "lambda_timeout",
    "reserved_concurrency",
}
SHOWN |= {name for name, row in BY_VARIABLE.items() if row.repr}
TAG = "tag "  # what the name of a function's tag begins with, beside those of settings
NOT_SET = "(not set)"
UNKNOWN_KEY = """\
nothing was changed: no API key is '{key}'; there are: {known}
If it was taken out before, type the same command without REMOVE_KEY."""


@dataclass(frozen=True)
class KeyRemoval:
    """What REMOVE_KEY does to the entries of API_KEYS."""

    # The entries in use that stay.
    left: list[str]
    # The entries that it names, also those that the latest change had taken out.
    taken_out: list[str]


def remove_keys(removed: str, in_use: str, previous: str) -> KeyRemoval:
    """Take entries out of API_KEYS; raise UnconfirmedError with the names in use if one of
    `removed` is not in use, and was not taken out by the latest change either, as by the same
    command that was interrupted.

    :param removed: Names, or names with the beginning of a digest, separated by commas; empty:
        nothing is taken out.
    :param previous: The entries that the latest change replaced.
    """
    left = split_names(in_use)
    taken_out: list[str] = []
    for key in re.split(" *, *", removed.strip(", ")) if removed else ():
        beginning = key if ":" in key else f"{key}:"
        named = [entry for entry in left if entry.startswith(beginning)]
        if not named:
            named = [entry for entry in split_names(previous) if entry.startswith(beginning)]
            if not named:
                raise UnconfirmedError(UNKNOWN_KEY.format(key=key, known=name_keys(in_use)))
            print(f"{key} was taken out before")
        left = [entry for entry in left if entry not in named]
        taken_out += named
    return KeyRemoval(left, taken_out)


def add_keys(given: str, removal: KeyRemoval) -> str:
    """Return API_KEYS with the entries that are given and those that stay. A name that is given has
    these entries alone; names that are not given keep theirs, which is printed.

    What is taken out goes also from what is given: API_KEYS may still be exported with a key that
    has leaked.
    """
    removed_keys = [_key_of(entry) for entry in removal.taken_out]
    given_entries = [entry for entry in split_names(given) if _key_of(entry) not in removed_keys]
    names = set(map(_name_of, given_entries))
    kept_entries = [entry for entry in removal.left if _name_of(entry) not in names]
    kept = ",".join(sorted(set(map(_name_of, kept_entries))))
    if names and kept:
        print(f"not in API_KEYS, and kept: {kept} (to take them out: REMOVE_KEY='{kept}')")
    return ",".join(kept_entries + given_entries)


def have_same_entries(one: str, other: str) -> bool:
    """Return whether two values of API_KEYS have the same entries, in whatever order."""
    return {*split_names(one)} == {*split_names(other)}


def find_undone_keys(before: str, after: str, in_use: str) -> set[str]:
    """Return the entries of API_KEYS that a change added but are not in use, or that it took out
    but are in use.

    :param before: API_KEYS before the change.
    :param after: API_KEYS after the change.
    """
    entries_after = {*split_names(after)}
    changed = {*split_names(before)} ^ entries_after
    return changed & ({*split_names(in_use)} ^ entries_after)


def name_keys(keys: str) -> str:
    """Return the names of entries of API_KEYS, each with the beginning of its digest."""
    return ", ".join(re.findall(r"[^\s,][^,:]*:\w{8}", keys))


def split_names(names: str) -> list[str]:
    """Return the names in a text that separates them by commas, without spaces around them."""
    return re.findall(r"[^\s,](?:[^,]*[^\s,])?", names)


def _name_of(entry: str) -> str:
    return entry.partition(":")[0]


def _key_of(entry: str) -> list[str]:
    """Return the name and the digest of an entry of API_KEYS, without its scopes."""
    return entry.split(":")[:2]


def find_changes(given: dict[str, str], values: dict[str, str]) -> list[str]:
    """Return a line for each variable whose value would change, with both values unless they may
    be secret.

    :param given: The values to be set, by variable.
    :param values: The values of the stage, by variable. A variable that is not there does not
        change: it is of an event source that does not exist yet.
    """
    return [
        f"{name}: {difference}"
        for name, value in given.items()
        if (difference := _difference(name, value, values.get(name, value)))
    ]


def read_settings(stage: str, version: str = "AWSCURRENT") -> dict[str, str]:
    """Return the settings in the stage's secret, by variable; raise what boto3 raises.

    :param version: AWSPREVIOUS for the settings that the latest change replaced.
    """
    client = boto3.client("secretsmanager")
    name = f"triggers-api-{stage}-settings"
    text = client.get_secret_value(SecretId=name, VersionStage=version)["SecretString"]
    return dict(re.findall(r"^ *([A-Z_]+) *= *(.*?) *$", text, re.MULTILINE))


def read_previous_keys(stage: str) -> str:
    """Return API_KEYS as they were before the latest change of the settings, or nothing if they
    were never changed.
    """
    try:
        return read_settings(stage, "AWSPREVIOUS").get("API_KEYS", "")
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
    return ""


def read_values(stage: str, stack: Json, secret: dict[str, str]) -> dict[str, str]:
    """Return the settings of a stage, by variable: parameters of its stack, the settings of the
    secret, which CloudFormation does not show, and the values of its topic and event sources.
    """
    values = dict.fromkeys(PARAMETERS.values(), "")
    for parameter in stack["Parameters"]:
        values[PARAMETERS.get(parameter["ParameterKey"], "")] = parameter["ParameterValue"]
    values |= secret
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
    """Return the outputs of a stack, by name. A stack that is not complete has none."""
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", ())}


def _difference(name: str, new: str, old: str) -> str:
    """Return how a value differs from the old one, empty if it does not. Values of names in SHOWN
    and of tags are part of that.
    """
    if new == old:
        return ""
    if name in ("API_KEYS", "SUSPENDED_TENANTS"):
        show = _name_of if name == "API_KEYS" else str
        new_entries = {*split_names(new)}
        old_entries = {*split_names(old)}
        names = [f"+ {show(entry)}" for entry in new_entries - old_entries]
        names += [f"\N{MINUS SIGN} {show(entry)}" for entry in old_entries - new_entries]
        return ", ".join(sorted(names))
    if name in SHOWN or name.startswith(TAG):
        return f"{old or NOT_SET} \N{RIGHTWARDS ARROW} {new or NOT_SET}"
    if not new:
        return "removed"
    if name == "ZAPIER_WEBHOOK_URL" and new.split("/")[:3] != old.split("/")[:3]:
        return new if new in (PULL_ONLY, COPIES_ONLY) else "another host"
    return "another value"
