"""The examples: AWS in front and behind, without a call to it, and moving in from other systems."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore import xform_name
from botocore.validate import ParamValidator

from tests.support.receiver import Exchange, Receiver, status
from tests.support.running import ended
from tests.support.world import ROOT, Json

SECRET = f"whsec_{'a' * 32}"
FAKE_AWS = f"""#!{sys.executable}
import json, sys
asked = sys.stdin.read() if "file:///dev/stdin" in sys.argv else "{{}}"
with open("NOTES", "a") as notes:
    print(json.dumps([sys.argv[3:], json.loads(asked)]), file=notes)
print("arn:aws:made")
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


@pytest.mark.parametrize(("script", "calls"), [("front.sh", 7), ("behind.sh", 4)])
def test_the_calls_to_aws_are_as_its_models_say(script: str, calls: int, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    fake = tmp_path / "aws"
    fake.write_text(FAKE_AWS.replace("NOTES", str(notes)))
    fake.chmod(0o755)
    names = ("QUEUE_ARN", "DLQ_ARN", "TRIGGERS_URL", "TRIGGERS_API_KEY")
    variables = dict.fromkeys(names, "https://e.example")
    variables |= {"SECRET": SECRET, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    done, _, errors = ended("sh", str(ROOT / "examples" / "eventbridge" / script), **variables)

    assert (done, errors) == (0, "")
    session = botocore.session.get_session()
    noted = [json.loads(line) for line in notes.read_text().splitlines()]
    made = [call for call in noted if call[0][1] != "wait"]
    assert len(made) == calls
    for (service, operation, *options), parameters in made:
        model = session.get_service_model(service)
        [name] = [name for name in model.operation_names if xform_name(name, "-") == operation]
        shape = model.operation_model(name).input_shape
        members = {f"--{xform_name(member, '-')}": member for member in shape.members}
        given = dict(zip(options[::2], options[1::2], strict=True))
        parameters |= {members[name]: given[name] for name in members.keys() & given.keys()}
        assert given.keys() - members.keys() <= {"--query", "--cli-input-json"}
        assert ParamValidator().validate(parameters, shape).generate_report() == ""
        assert enum_faults(parameters, shape) == []


SVIX = {
    "/app?limit=250": {"data": [{"id": "app_1", "uid": "acme"}], "done": True},
    "/endpoint?limit=250": {
        "data": [{"id": "1", "url": "u", "filterTypes": ["a"], "description": "CRM"}],
        "done": False, "iterator": "1",
    },
    "/endpoint?limit=250&iterator=1": {"data": [], "done": True},
    "/headers": {"headers": {"X-Api-Key": "k"}, "sensitive": ["authorization"]},
    "/secret": {"key": SECRET},
}  # fmt: skip
OUTPOST = {
    "/tenants?limit=100": {"models": [], "pagination": {"next": "n"}},
    "/tenants?limit=100&next=n": {"models": [{"id": "acme"}], "pagination": {"next": None}},
    "/acme/destinations": [
        {"type": "aws_sqs"},
        {"type": "webhook", "topics": ["a"], "credentials": {"secret": SECRET},
         "config": {"url": "u", "custom_headers": '{"X-Api-Key": "k"}'}},
    ],
}  # fmt: skip


@pytest.mark.parametrize(("system", "pages"), [("svix", SVIX), ("outpost", OUTPOST)])
def test_the_endpoints_of_another_system_are_printed_as_lines(system: str, pages: Json) -> None:
    def answer(exchange: Exchange) -> None:
        [page] = [page for page in pages if exchange.request.path.endswith(page)]
        status(200, body=json.dumps(pages[page]).encode())(exchange)

    script = str(ROOT / "examples" / "moving" / f"{system}.py")
    name = system.upper()
    with Receiver() as other:
        other.default = answer
        variables = {f"{name}_URL": f"http://127.0.0.1:{other.port}", f"{name}_TOKEN": "t"}
        _, output, _ = ended(sys.executable, script, **variables, OUTPOST_API_KEY="t")

    line = json.loads(output)
    assert line.pop("name", "CRM") == "CRM"
    assert line == {
        "target_url": "u",
        "event_types": ["a"],
        "tenant": "acme",
        "headers": {"X-Api-Key": "k"},
        "secret": SECRET,
        "body": "payload",
        "disabled_at": "until it is switched",
    }
