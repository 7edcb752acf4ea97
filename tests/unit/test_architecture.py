"""The direction of imports, and what importing the app may do."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.receiver import Behaviour, Receiver, status

ROOT = Path(__file__).parent.parent.parent
SOURCES = {path.stem: path for path in (ROOT / "app.py", *(ROOT / "chalicelib").glob("*.py"))}

# A module imports only from the layers before its own. A new module gets its layer here.
LAYERS = (
    {"__init__", "errors", "times"},
    {"events", "retry", "targets", "console", "telemetry"},
    {"validation", "table"},
    {"auth"},
    {"settings", "aws"},
    {"breaker", "store", "queue", "push"},
    {"subscriptions", "messages"},
    {"services"},
    {"listing", "planning"},
    {"reports", "pushing"},
    {"delivery"},
    {"posting", "inbox", "recovery"},
    {"batch", "schedules"},
    {"app"},
)
THIRD_PARTY = {
    "app": {"chalice"},
    "errors": {"botocore"},
    "aws": {"boto3", "botocore"},
    "push": {"urllib3"},
    "retry": {"urllib3"},
    "table": {"botocore"},
}


def imported(path: Path) -> set[str]:
    """Return the full names of all that a module imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("name", SOURCES)
def test_imports_go_one_way(name: str) -> None:
    parts = [full.split(".") for full in imported(SOURCES[name])]
    own = {part[1] if part[1] in SOURCES else "__init__" for part in parts if part[0] == "chalicelib"}
    layer = next(number for number, names in enumerate(LAYERS) if name in names)

    assert own <= set().union(*LAYERS[:layer])
    assert {part[0] for part in parts} - {"chalicelib"} - sys.stdlib_module_names <= THIRD_PARTY.get(name, set())


def test_tools_and_the_application_never_import_tests() -> None:
    files = [*SOURCES.values(), *(ROOT / "tools").rglob("*.py")]
    found = {str(path) for path in files for name in imported(path) if name.split(".")[0] == "tests"}
    assert found == set()


INITIALIZE = """
import contextlib
import boto3
made, client = [], boto3.client
boto3.client = lambda service, **options: made.append(service) or client(service, **options)
import app
print(*made)
with contextlib.suppress(app.SettingsError):
    app.services.get()
print(*made)
"""
URLS = "INBOX_QUEUE_URL=https://a\nINBOX_DLQ_URL=https://b\nZAPIER_WEBHOOK_URL=none"
SECRET = status(200, body=json.dumps({"SecretString": f"EVENTS_TABLE_NAME=events\n{URLS}\nAPI_KEYS="}).encode())


@pytest.mark.parametrize(
    ("variables", "response", "made_by_import", "made_by_request", "tries"),
    [
        ({}, SECRET, "", "secretsmanager", 1),
        ({"AWS_LAMBDA_FUNCTION_NAME": "f"}, SECRET, "secretsmanager dynamodb sqs", "", 1),
        ({"AWS_LAMBDA_FUNCTION_NAME": "f"}, status(503), "secretsmanager", "secretsmanager", 3),
    ],
    ids=["no function", "secret", "outage"],
)
def test_a_function_alone_makes_clients_while_it_initializes_and_leaves_an_outage_to_a_request(
    receiver: Receiver, variables: Any, response: Behaviour, made_by_import: str, made_by_request: str, tries: int
) -> None:
    receiver.default = response
    environ = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1", **variables}
    environ |= {"SETTINGS_SECRET": "s", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{receiver.port}"}
    command = [sys.executable, "-B", "-c", INITIALIZE]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == [made_by_import, f"{made_by_import} {made_by_request}".strip()]
    assert len(receiver.requests) == tries
