"""Decide which settings of a stage an update changes, and which changes need confirmation."""

import os
from dataclasses import dataclass

import click

from chalicelib import deps
from chalicelib.infra.parsing import Json
from tools.changes import (
    OF_EVENT_SOURCES,
    PARAMETERS,
    UnconfirmedError,
    add_keys,
    find_changes,
    have_same_entries,
    read_previous_keys,
    read_values,
    remove_keys,
)
from tools.configuration import STAND_INS, read_config
from tools.function_changes import print_function_changes
from tools.stage import stack_name


@dataclass(frozen=True)
class Plan:
    """The changes that a run makes to a stage's settings."""

    # The values to apply, by variable. Other settings keep their values.
    applied: dict[str, str]
    # A line for each applied value that differs from the stage's present value.
    changes: list[str]
    # The value of API_KEYS before the run.
    keys_before: str
    # The reason why `chalice deploy` must not follow; empty: it may follow.
    refusal: str


REQUIRED = ("ZAPIER_WEBHOOK_URL", "API_KEYS")
FIRST_TIME = """\
{missing} must be set, the first time only:
  ZAPIER_WEBHOOK_URL       where events are pushed to: an https URL, none (consumers pull
                           the events), or subscriptions (only subscriptions get them)
  API_KEYS                 the entries that `make api-key NAME=acme` prints, separated by
                           commas
  WEBHOOK_SIGNING_SECRETS  optional: the secret that `make signing-secret` prints; without
                           it, pushes to the webhook are not signed, and there are no tokens
  ALARM_EMAIL              optional: the address to which alarms are mailed
  ALARM_URL                optional: the https URL to which alarms are posted
  QUIET_ALARM_HOURS        optional: raise an alarm after so many hours without an event
  DASHBOARD                optional: none leaves the dashboard out, which costs $3 a month
                           after the first three of an account"""


def plan_update(
    stage: str,
    stack: Json | None,
    secret: dict[str, str],
    *,
    is_deploying: bool,
    is_confirmed: bool,
) -> Plan:
    """Compare the environment with the stage's settings and, if `chalice deploy` follows, this
    checkout with the deployed functions; return the changes to make.

    A key that REMOVE_KEY names is taken out of API_KEYS without confirmation. Without confirmation,
    nothing else is changed in the same run: other differences are printed, and if `chalice deploy`
    would apply them, the returned plan has a refusal.

    Raise UnconfirmedError if there are differences without confirmation and without REMOVE_KEY,
    SettingsError if a value is unusable, and ClickException if a required setting is missing.

    :param stack: The stack of the stage's resources; None: it is created.
    :param secret: The settings in the stage's secret, by variable; empty if the stack is None.
    :param is_deploying: Whether `chalice deploy` follows.
    :param is_confirmed: Whether differences are applied. Otherwise they are refused.
    """
    given = _read_environment(stage)
    removed = os.environ.get("REMOVE_KEY", "")
    is_removal_alone = bool(removed) and not is_confirmed
    # A variable that is not applied may have an unusable value.
    to_check = {} if is_removal_alone else given
    deps.load_checked({**STAND_INS, **read_config(stage), **to_check})
    # The stage's present settings; empty if there are none, or if there is nothing to compare.
    values: dict[str, str] = {}
    if stack and (given or removed):
        values = read_values(stage, stack, secret)
    has_function_changes = is_deploying and print_function_changes(stage)
    keys_before = values.get("API_KEYS", "")
    removal = remove_keys(removed, keys_before, read_previous_keys(stage) if removed else "")
    if removed or "API_KEYS" in given:
        keys = add_keys(given.get("API_KEYS", ""), removal)
        # The same entries in another order are no change.
        given["API_KEYS"] = keys_before if have_same_entries(keys, keys_before) else keys
    missing = [name for name in REQUIRED if name not in given.keys() | variables_of(stack)]
    if missing:
        raise click.ClickException(FIRST_TIME.format(missing=" and ".join(missing)))
    if not is_removal_alone:
        changes = find_changes(given, values)
        refusal = _explain(stage, changes, has_function_changes, done="nothing was changed")
        if refusal and not is_confirmed:
            raise UnconfirmedError(refusal)
        return Plan(applied=given, changes=changes, keys_before=keys_before, refusal="")
    applied = {"API_KEYS": ",".join(removal.left)}
    for change in find_changes(given, values | applied):
        print(f"left as it is: {change}")
    # `chalice deploy` would apply these: it reads them from the environment.
    read_by_chalice = {name: given[name] for name in OF_EVENT_SOURCES if name in given}
    unconfirmed = find_changes(read_by_chalice, values) if is_deploying else []
    only_removed = "no function was deployed; only REMOVE_KEY was applied"
    refusal = _explain(stage, unconfirmed, has_function_changes, done=only_removed)
    changes = find_changes(applied, values)
    return Plan(applied=applied, changes=changes, keys_before=keys_before, refusal=refusal)


ENVIRONMENT_DIFFERS = """\
{done}. The environment has other settings than {changes}
Leave them as they are: unset these variables. Or apply them: GO=1 behind the same command."""
CHECKOUT_DIFFERS = """\
{done}. Keep the values on the left: get what a colleague has committed of .chalice
(git pull), or write them into .chalice/config.json. Or apply those on the right: GO=1 behind the
same command."""


def _explain(stage: str, changes: list[str], has_function_changes: bool, done: str) -> str:
    """Return an error text that names the differences and the commands that resolve them; empty if
    nothing differs.

    :param changes: A line for each setting of the environment that differs from the stage.
    :param has_function_changes: Whether the deployed functions differ from this checkout.
    :param done: The beginning of the text, such as "nothing was changed".
    """
    explanations = []
    if changes:
        lines = "\n  ".join([f"stack {stack_name(stage)}", *changes])
        explanations.append(ENVIRONMENT_DIFFERS.format(done=done, changes=lines))
    if has_function_changes:
        explanations.append(CHECKOUT_DIFFERS.format(done=done))
    return "\n".join(explanations)


def variables_of(stack: Json | None) -> set[str]:
    """Return the variables that set the parameters of a stack; empty if the stack is None."""
    parameters = stack["Parameters"] if stack else ()
    return {PARAMETERS.get(parameter["ParameterKey"], "") for parameter in parameters}


# Variables that count as not set if they are empty. An empty value of another variable removes its
# setting.
NEVER_EMPTY = ("ZAPIER_WEBHOOK_URL", "QUIET_ALARM_HOURS", "DASHBOARD", *OF_EVENT_SOURCES)


def _read_environment(stage: str) -> dict[str, str]:
    """Return the variables of the environment that set parameters of the template or of event
    sources, with their values; raise ClickException if .chalice/config.json is unusable.

    An empty variable is returned, because it removes its setting, unless it is in NEVER_EMPTY: then
    it counts as not set. Runs of whitespace in a value become one space.
    """
    given = {}
    # Variables in .chalice/config.json are left out: Chalice sets them itself before it imports the
    # app, in place of the environment's.
    of_event_sources = OF_EVENT_SOURCES.keys() - read_config(stage).keys()
    for variable in (*PARAMETERS.values(), *of_event_sources):
        if variable not in os.environ:
            continue
        value = " ".join(os.environ[variable].split())
        if value or variable not in NEVER_EMPTY:
            given[variable] = value
    return given
