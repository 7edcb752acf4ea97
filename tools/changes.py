"""What the environment would change of a stage's settings, told without the values."""

import re

import boto3
import click

from chalicelib.infra.clients import read_secret
from chalicelib.infra.parsing import Json
from chalicelib.settings import COPIES_ONLY, PULL_ONLY


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


def merge_keys(given: str, in_use: str, removed: str) -> str:
    """Return the entries of API_KEYS that a stage is to have: a name has the entries that are
    given, names that are not given keep theirs, and what is removed goes.

    :param removed: Names, or names with the beginning of a digest, separated by commas.
    """
    given_entries = split_keys(given)
    names = set(map(_name_of, given_entries))
    entries = [entry for entry in split_keys(in_use) if _name_of(entry) not in names]
    entries += given_entries
    for key in split_keys(removed):
        beginning = key if ":" in key else f"{key}:"
        left = [entry for entry in entries if not entry.startswith(beginning)]
        if left == entries:
            known = ", ".join(entry[: len(_name_of(entry)) + 9] for entry in entries)
            raise UnconfirmedError(f"nothing was changed: no API key is {key}; there are: {known}")
        entries = left
    kept = ",".join(sorted(set(map(_name_of, entries)) - names))
    if names and kept:
        print(f"not in API_KEYS, and kept: {kept} (to take them out: REMOVE_KEY={kept})")
    return in_use if set(entries) == set(split_keys(in_use)) else ",".join(entries)


def split_keys(keys: str) -> list[str]:
    return keys.replace(",", " ").split()


def _name_of(entry: str) -> str:
    return entry.partition(":")[0]


def find_changes(given: dict[str, str], values: dict[str, str]) -> list[str]:
    """Return a line for each variable whose value is not that of the stage, without the values.

    :param given: What is to be set, by variable.
    :param values: What the stage has, by variable.
    """
    return [
        f"{name}: {_difference(name, value, values[name])}"
        for name, value in given.items()
        if value != values.get(name, value)  # no event source is there yet
    ]


def read_values(stage: str, stack: Json) -> dict[str, str]:
    """Return the settings of a stage, by variable. CloudFormation does not show those that are
    secret: they are in the secret and in the topic.
    """
    values = dict.fromkeys(PARAMETERS.values(), "")
    for parameter in stack["Parameters"]:
        values[PARAMETERS.get(parameter["ParameterKey"], "")] = parameter["ParameterValue"]
    text = read_secret(f"triggers-api-{stage}-settings")
    values |= re.findall(r"^ *([A-Z_]+) *= *(.*?) *$", text, re.MULTILINE)
    topic = outputs_of(stack)["DLQAlarmTopicArn"]
    topics = boto3.client("sns").get_paginator("list_subscriptions_by_topic")
    endpoints = topics.paginate(TopicArn=topic).search("Subscriptions[?Protocol=='https'].Endpoint")
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
    """Return how a value differs from the one before, without showing either."""
    if name == "API_KEYS":
        new_keys = set(split_keys(new))
        old_keys = set(split_keys(old))
        names = [f"+ {_name_of(entry)}" for entry in new_keys - old_keys]
        names += [f"\N{MINUS SIGN} {_name_of(entry)}" for entry in old_keys - new_keys]
        return ", ".join(sorted(names))
    if not new:
        return "removed"
    if name == "ZAPIER_WEBHOOK_URL" and new.split("/")[:3] != old.split("/")[:3]:
        return new if new in (PULL_ONLY, COPIES_ONLY) else "another host"
    return "another value"
