"""The settings of a stage: add and remove API keys, and list changes without showing secrets."""

import re
from dataclasses import dataclass

import boto3
import click
from botocore.exceptions import ClientError

from chalicelib.infra.parsing import Json
from chalicelib.settings import BY_VARIABLE, COPIES_ONLY, PULL_ONLY


class UnconfirmedError(click.ClickException):
    """The environment or the checkout differs from the stage, and the user did not confirm it."""

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
# Variables that `chalice deploy` applies to event sources: the function of the event source, and
# the path of the value in the event source mapping.
OF_EVENT_SOURCES = {
    "WORKER_BATCH_WINDOW_SECONDS": ("worker", "MaximumBatchingWindowInSeconds"),
    "WORKER_MAX_CONCURRENCY": ("worker", "ScalingConfig.MaximumConcurrency"),
    "SLOW_MAX_CONCURRENCY": ("slow_worker", "ScalingConfig.MaximumConcurrency"),
}
# Names whose values are shown. Other values may be secret, as may a variable that is no setting.
SHOWN = {
    "SETTINGS_SECRET",
    "subnet_ids",
    "security_group_ids",
    "lambda_memory_size",
    "lambda_timeout",
    "reserved_concurrency",
}
SHOWN |= {name for name, row in BY_VARIABLE.items() if row.repr}
TAG = "tag "  # the prefix of a tag's name in a list of changes
NOT_SET = "(not set)"
UNKNOWN_KEY = """\
nothing was changed: no API key is '{key}'; there are: {known}
If the key was taken out before, repeat the command without REMOVE_KEY."""


@dataclass(frozen=True)
class KeyRemoval:
    """The result of taking keys out of API_KEYS, as REMOVE_KEY asks."""

    # The entries in use that are kept.
    left: list[str]
    # The entries that REMOVE_KEY names, including entries that the latest change took out already.
    taken_out: list[str]


def remove_keys(removed: str, in_use: str, previous: str) -> KeyRemoval:
    """Divide the entries of API_KEYS into the entries to keep and the entries to take out.

    An entry that the latest change took out already is accepted, because the same command may have
    been interrupted. Raise UnconfirmedError with the names in use if there is no such entry.

    :param removed: Names of keys, or names with the beginning of a digest, separated by commas;
        empty: nothing is taken out.
    :param in_use: The present value of API_KEYS.
    :param previous: The value of API_KEYS before the latest change.
    """
    left = split_names(in_use)
    taken_out: list[str] = []
    keys = re.split(" *, *", removed.strip(", ")) if removed else []
    for key in keys:
        # The colon after a name makes sure that it is the whole name of an entry.
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
    """Return a value of API_KEYS with the given entries and the entries that are left in use. Given
    entries replace all entries of the same name. Names that are not given keep their entries, and
    are printed if any entry is given.

    Entries that are taken out are also removed from the given entries, because the shell may still
    export API_KEYS with a key that has leaked.

    :param given: The value of API_KEYS in the environment; empty: no entries are given.
    :param removal: The entries in use, divided into those left in use and those taken out.
    """
    removed_keys = [_key_of(entry) for entry in removal.taken_out]
    given_entries = [entry for entry in split_names(given) if _key_of(entry) not in removed_keys]
    given_names = {_name_of(entry) for entry in given_entries}
    kept_entries = [entry for entry in removal.left if _name_of(entry) not in given_names]
    kept = ",".join(sorted({_name_of(entry) for entry in kept_entries}))
    if given_names and kept:
        print(f"not in API_KEYS, and kept: {kept} (to take them out: REMOVE_KEY='{kept}')")
    return ",".join(kept_entries + given_entries)


def have_same_entries(one: str, other: str) -> bool:
    """Return whether two values of API_KEYS have the same entries, in any order."""
    return {*split_names(one)} == {*split_names(other)}


def find_undone_keys(before: str, after: str, in_use: str) -> set[str]:
    """Return the entries that a change added to API_KEYS but are not in use, and the entries that
    it took out but are in use.

    :param before: The value of API_KEYS before the change.
    :param after: The value of API_KEYS after the change.
    :param in_use: The present value of API_KEYS.
    """
    entries_before = {*split_names(before)}
    entries_after = {*split_names(after)}
    entries_in_use = {*split_names(in_use)}
    added = entries_after - entries_before
    taken_out = entries_before - entries_after
    return (added - entries_in_use) | (taken_out & entries_in_use)


def name_keys(keys: str) -> str:
    """Return the names of the entries in a value of API_KEYS, each with the first 8 characters of
    its digest, separated by commas.
    """
    return ", ".join(re.findall(r"[^\s,][^,:]*:\w{8}", keys))


def split_names(names: str) -> list[str]:
    """Return the entries of a text that are separated by commas, without spaces around them."""
    return re.findall(r"[^\s,](?:[^,]*[^\s,])?", names)


def _name_of(entry: str) -> str:
    """Return the name of an entry of API_KEYS."""
    return entry.partition(":")[0]


def _key_of(entry: str) -> list[str]:
    """Return the name and the digest of an entry of API_KEYS, without its scopes."""
    return entry.split(":")[:2]


def find_changes(given: dict[str, str], values: dict[str, str]) -> list[str]:
    """Return a line for each variable whose value would change. The line has both values, unless
    they may be secret.

    :param given: The new values, by variable.
    :param values: The present values of the stage, by variable. A missing variable belongs to an
        event source that does not exist yet, and is no change.
    """
    lines = []
    for name, new_value in given.items():
        if name in values:
            difference = _difference(name, new_value, values[name])
            if difference:
                lines.append(f"{name}: {difference}")
    return lines


def read_settings(stage: str, version: str = "AWSCURRENT") -> dict[str, str]:
    """Return the settings in the stage's secret, by variable; raise ClientError if the secret or
    the version does not exist. The secret is a text with a line `VARIABLE = value` for each
    setting; other lines are ignored.

    :param version: AWSCURRENT for the present settings, AWSPREVIOUS for the settings before the
        latest change.
    """
    client = boto3.client("secretsmanager")
    name = f"triggers-api-{stage}-settings"
    text = client.get_secret_value(SecretId=name, VersionStage=version)["SecretString"]
    return dict(re.findall(r"^ *([A-Z_]+) *= *(.*?) *$", text, re.MULTILINE))


def read_previous_keys(stage: str) -> str:
    """Return the value of API_KEYS before the latest change of the settings, or an empty text if
    the settings were never changed.
    """
    try:
        return read_settings(stage, "AWSPREVIOUS").get("API_KEYS", "")
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
    return ""


def read_values(stage: str, stack: Json, secret: dict[str, str]) -> dict[str, str]:
    """Return the settings of a stage, by variable: the parameters of its stack, the settings in its
    secret, which CloudFormation does not show, and the values of its alarm topic and event sources.

    A setting without a value is empty; a variable of an event source that does not exist is
    missing.

    :param stack: The stage's stack, as CloudFormation describes it.
    :param secret: The settings in the stage's secret, by variable.
    """
    values = dict.fromkeys(PARAMETERS.values(), "")
    for parameter in stack["Parameters"]:
        variable_name = PARAMETERS.get(parameter["ParameterKey"])
        if variable_name:  # the stage's name is a parameter that no variable of the settings sets
            values[variable_name] = parameter["ParameterValue"]
    values |= secret
    topics = boto3.client("sns").get_paginator("list_subscriptions_by_topic")
    subscribed = topics.paginate(TopicArn=outputs_of(stack)["DLQAlarmTopicArn"])
    endpoints = subscribed.search("Subscriptions[?Protocol=='https'].Endpoint")
    values["ALARM_URL"] = " ".join(endpoints)
    sources = boto3.client("lambda").get_paginator("list_event_source_mappings").paginate()
    for variable, (function, member) in OF_EVENT_SOURCES.items():
        name = f":triggers-api-{stage}-{function}"
        path = f"EventSourceMappings[?ends_with(FunctionArn, '{name}')].{member}"
        for value in sources.search(path):  # one value, or none
            values[variable] = str(value)
    return values


def outputs_of(stack: Json) -> dict[str, str]:
    """Return the outputs of a stack by name; empty if the stack was never completed."""
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", ())}


def _difference(name: str, new: str, old: str) -> str:
    """Return the difference between a new and an old value in words; empty if they are equal.

    Of API keys, the names of added and removed keys are shown; of suspended tenants, the added and
    removed tenants. Tags and the values of names in SHOWN are shown. Of a webhook's URL, it is
    shown that the host is another, or that there is no webhook any more. Of any other value, only
    the fact that it changes is shown, because it may be secret.

    :param name: The name of the setting or, after the prefix TAG, of the tag.
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
    if name == "ZAPIER_WEBHOOK_URL":
        if new in (PULL_ONLY, COPIES_ONLY):  # words that stand for no webhook
            return new
        # The first three parts of https://host/path are those up to the host.
        if new.split("/")[:3] != old.split("/")[:3]:
            return "another host"
    return "another value"
