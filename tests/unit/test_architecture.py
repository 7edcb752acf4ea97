"""The direction of imports, and what importing the app may do."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.receiver import Behaviour, Receiver, status
from tests.support.world import ROOT

PRODUCT = ROOT / "chalicelib"
SOURCES = {
    str(path.relative_to(ROOT).with_suffix("")): path
    for path in (ROOT / "app.py", *PRODUCT.rglob("*.py"))
}

# What the modules of a folder may import beside their own: those of these. `core` is to be read
# first.
FOLDERS = {
    "chalicelib": set(),
    "chalicelib/infra": {"chalicelib"},
    "chalicelib/core": {"chalicelib", "chalicelib/infra", "chalicelib/settings"},
    "chalicelib/settings": {"chalicelib/infra"},
    "chalicelib/events": {"chalicelib/infra", "chalicelib/core"},
    "chalicelib/operations": {"chalicelib/infra", "chalicelib/core", "chalicelib/events"},
    "chalicelib/subscriptions": {
        "chalicelib/infra",
        "chalicelib/core",
        "chalicelib/events",
        "chalicelib/settings",
    },
    "chalicelib/console": set(),
    "chalicelib/deps": {
        "chalicelib/infra",
        "chalicelib/core",
        "chalicelib/subscriptions",
        "chalicelib/settings",
    },
    "chalicelib/web": set(SOURCES) - {"app"},
    "app": {"chalicelib", *SOURCES},
}
THIRD_PARTY = {
    "app": {"chalice"},
    "chalicelib/infra/clients": {"boto3", "botocore"},
    "chalicelib/web/routes": {"chalice"},
    **{f"chalicelib/infra/{name}": {"botocore"} for name in ("errors", "table")},
    **{
        f"chalicelib/{name}": {"urllib3"}
        for name in ("core/http_push", "core/outcome", "infra/connection")
    },
}


# Of the page's scripts, which are joined into one in the order of page.html.
CONSOLE = PRODUCT / "console"
NO_CODE = re.compile(r'"(?:\\[\s\S]|[^"\\\n])*"|//[^\n]*')
DEFINITION = re.compile(r"^(const|let|(?:async )?function\*?) (\w+)", re.MULTILINE)


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


def module(full: str) -> str:
    """Return the module or package of the project that a full name is of or in."""
    path = full.replace(".", "/")
    return path if path in SOURCES or f"{path}/__init__" in SOURCES else path.rpartition("/")[0]


@pytest.mark.parametrize("name", SOURCES)
def test_imports_go_one_way(name: str) -> None:
    full_names = imported(SOURCES[name])
    own = {module(full) for full in full_names if full.startswith("chalicelib")}
    folder = name if name in FOLDERS else name.rpartition("/")[0]
    allowed = {folder, *FOLDERS[folder]}

    assert {
        other for other in own if other not in allowed and other.rpartition("/")[0] not in allowed
    } == set()
    roots = {full.split(".")[0] for full in full_names}
    assert roots - {"chalicelib"} - sys.stdlib_module_names <= THIRD_PARTY.get(name, set())


def test_a_file_of_the_page_uses_what_is_above_it_and_shares_one_object() -> None:
    files = {
        path.name: path.read_text(encoding="utf-8")
        for path in CONSOLE.iterdir()
        if path.suffix != ".py"
    }
    parts = re.findall(r"\{\{ (\w+\.js) \}\}", files["page.html"])
    assert [name for name in parts if not files[name].startswith(f"// {name}: ")] == []
    sources = [(name, NO_CODE.sub("", files[name])) for name in parts]
    wrong = []
    for place, (name, source) in enumerate(sources):
        for below, (other, others_source) in enumerate(sources):
            for kind, defined in DEFINITION.findall(others_source):
                is_shared = below < place and kind != "let"
                used = re.search(rf"(?<![.\w]){defined}(?!\w|\s*:)", source)
                if other != name and used and not is_shared:
                    wrong.append(f"{name} uses {defined} of {other}")
    assert len(sources) > 20
    assert wrong == []


PASSED_ON = ("PYTHONPATH", "MUTANT_MODULE", "MUTANT_SOURCE")
INITIALIZE = """
import contextlib
import boto3
from chalicelib.infra.errors import SettingsError
made, client = [], boto3.client
boto3.client = lambda service, **options: made.append(service) or client(service, **options)
import app
print(*made)
with contextlib.suppress(SettingsError):
    app.deps.get()
print(*made)
"""
URLS = "INBOX_QUEUE_URL=https://a\nINBOX_DLQ_URL=https://b\nSLOW_QUEUE_URL=https://c\nZAPIER_WEBHOOK_URL=none"
SECRET = status(
    200, body=json.dumps({"SecretString": f"EVENTS_TABLE_NAME=events\n{URLS}\nAPI_KEYS="}).encode()
)


@pytest.mark.parametrize(
    "variables, response, made_by_import, made_by_request, tries",
    [
        ({}, SECRET, "", "secretsmanager", 1),
        ({"AWS_LAMBDA_FUNCTION_NAME": "f"}, SECRET, "secretsmanager dynamodb sqs", "", 1),
        ({"AWS_LAMBDA_FUNCTION_NAME": "f"}, status(503), "secretsmanager", "secretsmanager", 3),
    ],
    ids=["no function", "secret", "outage"],
)
def test_a_function_alone_makes_clients_while_it_initializes_but_in_an_outage(
    receiver: Receiver,
    variables: Any,
    response: Behaviour,
    made_by_import: str,
    made_by_request: str,
    tries: int,
) -> None:
    receiver.default = response
    environ = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        **variables,
    }
    environ |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environ |= {"SETTINGS_SECRET": "s", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{receiver.port}"}
    command = [sys.executable, "-B", "-c", INITIALIZE]
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines() == [
        made_by_import,
        f"{made_by_import} {made_by_request}".strip(),
    ]
    assert receiver.count == tries
