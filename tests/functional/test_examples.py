"""The examples: AWS in front and behind, without a call to it, and moving in from other systems."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore import xform_name
from botocore.validate import ParamValidator

from tests.support.receiver import Exchange, Receiver, status
from tests.support.running import ended
from tests.support.world import ROOT, assert_has

EXAMPLES = ROOT / "examples"
SECRET = f"whsec_{'a' * 32}"
FAKE_AWS = """#!/bin/sh
{ echo "$1 $2"; tr -d "\\n"; echo; } >> NOTES
echo arn:aws:made
"""


def enum_faults(value: Any, shape: Any) -> list[str]:
    """Return the texts that are none of their shape's, which botocore's validator takes."""
    if shape.type_name == "structure":
        parts = [(value[name], shape.members[name]) for name in value]
    elif shape.type_name == "list":
        parts = [(item, shape.member) for item in value]
    else:
        return [value] if value not in (getattr(shape, "enum", None) or [value]) else []
    return [fault for part in parts for fault in enum_faults(*part)]


@pytest.mark.parametrize("script, calls", [("front.sh", 7), ("behind.sh", 5)])
def test_the_calls_to_aws_are_as_its_models_say(script: str, calls: int, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    fake = tmp_path / "aws"
    fake.write_text(FAKE_AWS.replace("NOTES", str(notes)))
    fake.chmod(0o755)
    names = ("QUEUE_ARN", "DLQ_ARN", "TRIGGERS_URL", "TRIGGERS_API_KEY")
    variables = dict.fromkeys(names, "https://e.example")
    variables |= {"SECRET": SECRET, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    done, _, errors = ended("sh", str(EXAMPLES / "eventbridge" / script), **variables)

    assert (done, errors) == (0, "")
    session = botocore.session.get_session()
    lines = notes.read_text().splitlines()
    assert len(lines) == 2 * calls
    for called, asked in zip(lines[::2], lines[1::2], strict=True):
        service, operation = called.split()
        if operation == "wait":
            continue
        model = session.get_service_model(service)
        [name] = [name for name in model.operation_names if xform_name(name, "-") == operation]
        shape = model.operation_model(name).input_shape
        parameters = json.loads(asked)
        assert ParamValidator().validate(parameters, shape).generate_report() == ""
        assert enum_faults(parameters, shape) == []


def test_the_endpoints_of_svix_are_printed_as_lines() -> None:
    endpoint = {
        "id": "1",
        "url": "u",
        "filterTypes": ["a"],
        "description": "CRM",
        "channels": ["c"],
    }
    pages = {
        "/app": {"data": [{"id": "app_1", "uid": "acme"}], "done": True},
        "endpoint": {"data": [endpoint], "done": False, "iterator": "1"},
        "endpoint&iterator=1": {"data": [{"id": "2", "disabled": True}], "done": True},
        "/headers": {"headers": {"X-Api-Key": "k"}, "sensitive": ["authorization"]},
        "/secret": {"key": SECRET},
    }

    def answer(exchange: Exchange) -> None:
        asked = exchange.request.path.replace("?limit=250", "")
        [page] = [page for page in pages if asked.endswith(page)]
        status(200, body=json.dumps(pages[page]).encode())(exchange)

    with Receiver() as svix:
        svix.default = answer
        variables = {"SVIX_URL": f"http://127.0.0.1:{svix.port}", "SVIX_TOKEN": "t"}
        _, output, errors = ended(sys.executable, str(EXAMPLES / "svix_lines.py"), **variables)

    line = json.loads(output)
    assert re.findall(r"endpoint/(\d): (\w+)", errors) == [("1", "gets"), ("2", "skipped")]
    assert_has(line, target_url="u", event_types=["a"], tenant="acme", secret=SECRET)
    assert_has(line, name="CRM", headers={"X-Api-Key": "k"}, body="payload")
