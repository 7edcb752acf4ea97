"""Read and check `.chalice/config.json`, the configuration of Chalice and of the commands."""

import difflib
import json
import re

import click
from chalice.config import Config
from chalice.constants import DEFAULT_APIGATEWAY_STAGE_NAME

from chalicelib import deps, settings
from chalicelib.infra.errors import SettingsError
from chalicelib.infra.parsing import Json
from tools.stage import FUNCTION_NAMES, chalice_folder

# Values of the required settings, with which other settings are checked before a stage exists.
STAND_INS = {**dict.fromkeys(settings.REQUIRED, "https://stand-in"), "API_KEYS": ""}


def load_config(stage: str) -> Json:
    """Return the content of .chalice/config.json; raise ClickException if it cannot be read, or if
    a member in which Chalice expects a JSON object is something else.

    :param stage: The stage whose members are checked, if the file has it.
    """
    try:
        config = json.loads((chalice_folder() / "config.json").read_text())
    except OSError as error:
        raise click.ClickException(f".chalice/config.json cannot be read: {error}") from error
    except ValueError as error:
        raise click.ClickException(f".chalice/config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise click.ClickException(".chalice/config.json must be a JSON object")
    of_stage = _member(_member(config, "stages"), stage)  # empty if the file lacks the stage
    for level in (config, of_stage):  # both can have the same members
        _member(level, "environment_variables")
        _member(level, "tags")
        functions = _member(level, "lambda_functions")
        for function in functions:
            _member(_member(functions, function), "environment_variables")
    return config


def _member(parent: Json, name: str) -> Json:
    """Return a member that is a JSON object, or an empty object if the member is absent; raise
    ClickException if it is something else.
    """
    member = parent.get(name, {})
    if not isinstance(member, dict):
        raise click.ClickException(f".chalice/config.json: {name} must be an object")
    return member


# A pattern of members that name another stage, or policies or resources of another stage. {others}
# are the names of the other stages. A restored table of this stage may have any other name.
OTHER_STAGE = (
    r'"STAGE": "(?!{stage}")[^"]*"|"\w+": "policies/(?!{stage}/)[^"/]+/[^"]*"|'
    r'"\w+": "[^"]*triggers-api-(?:(?!{stage}-)[^"]+?|{others})-'
    r'(?:events|inbox-queue|inbox-dlq|slow-queue|settings)\b[^"]*"'
)
UNUSABLE = """\
nothing was changed. Correct .chalice/config.json, and repeat the command:
  {faults}"""


def read_config(stage: str) -> dict[str, str]:
    """Return the variables that .chalice/config.json sets for all functions of a stage.

    Raise ClickException with every fault: the stage is missing, a variable of the stage or of a
    single function is unusable, or a value belongs to another stage.
    """
    config = load_config(stage)
    stages = config.get("stages", {})
    if stage not in stages:
        there_is = f"has {' and '.join(stages)}" if stages else "has no stages"
        raise click.ClickException(f"STAGE is unusable: .chalice/config.json {there_is}")
    # Without the name of a function, these are the variables that all functions have.
    configured = Config(stage, "", config_from_disk=config).environment_variables
    faults = _find_faults(configured)
    for function in FUNCTION_NAMES.values():
        own = Config(stage, function, config_from_disk=config).environment_variables
        faults += [f"{function}: {fault}" for fault in _find_faults(own) if fault not in faults]
    # Members that name another stage, or a resource of another stage, are searched in the JSON of
    # the stage's configuration. STAGE, which is part of the queues' names, has a default.
    variables = {"STAGE": settings.DEFAULTS["stage"], **configured}
    text = json.dumps([variables, stages[stage]])
    others = "|".join(stages.keys() - {stage})
    foreign = {*re.findall(OTHER_STAGE.format(stage=stage, others=others), text)}
    faults += [f"in the stage {stage}, {member} is of another stage" for member in sorted(foreign)]
    if faults:
        raise click.ClickException(UNUSABLE.format(faults="\n  ".join(faults)))
    return configured


MAX_VARIABLES_BYTES = 4096  # of a function
# The variables that functions read.
VARIABLES = {*settings.PARSERS, "SETTINGS_SECRET"}
# How alike two names are for difflib: LOG_LEVEL and LOGLEVEL 0.94, but OTEL_LOG_LEVEL 0.78.
LEAST_LIKENESS = 0.8


def _find_faults(variables: Json) -> list[str]:
    """Return the faults in the environment variables of a function, each as a sentence.

    :param variables: The variables by name. A value may have any type that JSON has.
    """
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
        close = difflib.get_close_matches(name.upper(), VARIABLES, n=1, cutoff=LEAST_LIKENESS)
        if close and not name.startswith("DD_"):  # Datadog's, such as DD_LOG_LEVEL
            faults.append(f"{name} is no setting: is {close[0]} meant?")
    texts = {name: value for name, value in variables.items() if isinstance(value, str)}
    try:
        deps.load_checked(STAND_INS | texts)
    except SettingsError as error:
        unusable = str(error).split("; ")
        # The catalogue is another file, and its faults are reported elsewhere.
        faults += [fault for fault in unusable if not fault.startswith(settings.CATALOGUE.name)]
    return faults


def api_stage_name(stage: str) -> str:
    """Return the stage's name in API Gateway, with which the URL of the API ends."""
    config = Config(stage, config_from_disk=load_config(stage))
    return config.api_gateway_stage or DEFAULT_APIGATEWAY_STAGE_NAME
