"""One stage as it is deployed: what is given for it in the environment, and what things are called in it."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from chalicelib import settings
from chalicelib.settings import EventSource, Settings

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / ".chalice" / "config.json"
API_STAGE = "api"  # a part of the URL; each of our stages has an API of its own
FUNCTIONS = ("api_handler", "worker", "sweep", "check_dlq")

SECRET = ("ZAPIER_WEBHOOK_URL", "API_KEYS", "WEBHOOK_SIGNING_SECRETS")

# Stand in for what is made later, so that the rest can be checked before anything is.
TABLE_AND_QUEUES = {
    "EVENTS_TABLE_NAME": "events",
    "INBOX_QUEUE_URL": "http://127.0.0.1/inbox",
    "INBOX_DLQ_URL": "http://127.0.0.1/dlq",
}
WEBHOOK_AND_KEYS = {"ZAPIER_WEBHOOK_URL": "http://127.0.0.1/", "API_KEYS": f"local:{'0' * 64}"}

OPTIONAL = tuple(
    name
    for kind in (Settings, EventSource)
    for field in fields(kind)
    if (name := field.metadata["variable"][0]) not in {*SECRET, *TABLE_AND_QUEUES, "STAGE"}
)


def given(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are set. Set but empty counts as not set, but for API_KEYS: no keys is a choice."""
    return {name: value for name, value in environ.items() if name == "API_KEYS" or value.strip()}


def check(environ: Mapping[str, str], stand_ins: Mapping[str, str]) -> tuple[Settings | None, list[str]]:
    """Return the settings, with `stand_ins` for what is not given, or None and every fault that was found."""
    variables, faults, checked = {**stand_ins, **given(environ)}, [], None
    try:
        checked = settings.load(variables)
    except settings.SettingsError as error:
        faults += str(error).split("; ")
    try:
        settings.load_event_source({**variables, "STAGE": "dev"})  # the stage was checked
    except settings.SettingsError as error:
        faults += str(error).split("; ")
    return checked, faults


def unknown(stage: str) -> list[str]:
    """Return the fault that `stage` is, or nothing."""
    known = list(json.loads(CONFIG.read_text())["stages"])
    return [] if stage in known else [f"STAGE is unusable: .chalice/config.json knows {' and '.join(known)}"]


def function_name(stage: str, function: str) -> str:
    """Return what Chalice calls a function in Lambda."""
    return f"triggers-api-{stage}" if function == "api_handler" else f"triggers-api-{stage}-{function}"


def log_group(stage: str, function: str) -> str:
    return f"/aws/lambda/{function_name(stage, function)}"


def access_log_group(stage: str) -> str:
    return f"/aws/apigateway/triggers-api-{stage}"


def log_groups(stage: str) -> list[str]:
    return [*(log_group(stage, function) for function in FUNCTIONS), access_log_group(stage)]
