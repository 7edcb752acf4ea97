"""The examples: what moves subscriptions in, and AWS in front and behind, without a call to AWS."""

import base64
import hmac
import json
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.functional.test_moving import import_file
from tests.functional.test_ops import _environment  # noqa: F401 - serves the app
from tests.support.receiver import Exchange, Receiver, status
from tests.support.running import environment
from tests.support.subscribing import post_for, subscribe, subscriptions
from tests.support.world import ROOT, Json, World, assert_has

EXAMPLES = ROOT / "examples"
SECRET = f"whsec_{'a' * 32}"


def run(*command: str, **variables: str) -> str:
    done = subprocess.run(
        command, env=environment(**variables), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def aws_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a script, and returns its calls to AWS by their operations."""
    notes = tmp_path / "notes"
    fake = tmp_path / "aws"
    fake.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.support.fake_aws {notes} "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def calls(script: str, **variables: str) -> Json:
        run("sh", str(EXAMPLES / "eventbridge" / script), **variables)
        return dict(map(json.loads, notes.read_text().splitlines()))

    return calls


def find(event: Any, path: str) -> Any:
    for name in path.split(".")[1:]:
        event = event[name]
    return event


def fill(template: str, event: Json, paths: Json) -> str:
    """Return a template of EventBridge with what an event has in place of <name> or <$.path>."""

    def value(match: re.Match[str]) -> str:
        return json.dumps(find(event, paths.get(match[1]) or match[1]))

    return re.sub("<(.*?)>", value, template)


@pytest.mark.timeout(180)  # it starts an `aws` for each call
def test_events_of_a_rule_and_messages_of_a_queue_are_posted_once(
    world: World, aws_calls: Any
) -> None:
    queues = {"QUEUE_ARN": "arn:aws:sqs:us-east-1:123456789012:q", "DLQ_ARN": "arn:aws:sqs:::d"}
    calls = aws_calls(
        "front.sh", TRIGGERS_URL="https://e.example/api", TRIGGERS_API_KEY="trk_1", **queues
    )
    [target] = calls["PutTargets"]["Targets"]
    transformer = target["InputTransformer"]
    pipe = calls["CreatePipe"]["TargetParameters"]
    ordered = {"customer": "customer-42", "total": 1}
    posted = [
        (target, transformer, {"id": "8c7e", "detail": ordered}),
        (pipe, pipe, {"messageId": "1f3a", "body": ordered}),
    ]

    for parameters, template, event in posted:
        body = fill(template["InputTemplate"], event, template.get("InputPathsMap", {}))
        headers = parameters["HttpParameters"]["HeaderParameters"]
        key = find(event, headers["Idempotency-Key"])
        posts = [
            world.call("POST", "/events", body, idempotency_key=key, prefer=headers["Prefer"])
            for _ in range(2)
        ]
        assert [post.status_code for post in posts] == [202, 202]
        assert posts[1].headers["idempotency-replayed"] == "true"
        assert posts[0].headers["preference-applied"] == "respond-async"
        event_id = posts[0].json["event_id"]
        assert_has(world.event(event_id), event_type="order.placed", payload=ordered)
    assert calls["CreateConnection"]["AuthParameters"]["BasicAuthParameters"]["Password"] == "trk_1"
    assert calls["CreateApiDestination"]["InvocationEndpoint"] == "https://e.example/api/events"


@pytest.mark.timeout(180)
def test_a_bus_verifies_pushes_as_its_event_source_says(
    world: World, target: Receiver, aws_calls: Any
) -> None:
    source = aws_calls("behind.sh", SECRET=SECRET)["CreateEventSource"]["Configuration"]
    told = source["WebhookEventsConfiguration"]["AuthConfiguration"]["HmacAuthConfiguration"]
    subscribe(world, target.url, secret=SECRET)

    post_for(world, None)

    push = target.requests[-1]
    signed = [
        push.headers[told[name]].encode() for name in ("MessageIdHttpHeader", "TimestampHttpHeader")
    ]
    digest = hmac.digest(
        base64.b64decode(told["SecretValue"]), b".".join([*signed, push.body]), told["Algorithm"]
    )
    signatures = push.headers[told["SignatureHttpHeader"]].split(told["Delimiter"])
    assert f"{told['SignaturePrefix']}{base64.b64encode(digest).decode()}" in signatures


SVIX = {
    "": {
        "data": [{"id": "app_1", "uid": "customer-42"}, {"id": "other", "uid": None}],
        "done": True, "iterator": None,
    },
    "/app_1/endpoint?limit=250": {
        "data": [
            {"id": "ep_1", "url": "TARGET", "filterTypes": ["order.paid"], "description": "CRM"},
        ],
        "done": False, "iterator": "ep_1",
    },
    "/app_1/endpoint?limit=250&iterator=ep_1": {"data": [], "done": True, "iterator": None},
    "/other/endpoint?limit=250": {
        "data": [{"id": "ep_2", "url": "TARGET&2", "filterTypes": None, "description": ""}],
        "done": True, "iterator": None,
    },
    "/ep_1/headers": {"headers": {"X-Api-Key": "k"}, "sensitive": ["authorization"]},
    "/headers": {"headers": {}, "sensitive": []},
    "/secret": {"key": SECRET},
}  # fmt: skip
CREDENTIALS = {"credentials": {"secret": SECRET}}
OUTPOST = {
    "": {"models": [{"id": "customer-42"}], "pagination": {"next": "n"}},
    "?limit=100&next=n": {"models": [{"id": "other"}], "pagination": {"next": None}},
    "/customer-42/destinations": [
        {"type": "webhook", "topics": ["order.paid"], **CREDENTIALS,
         "config": {"url": "TARGET", "custom_headers": '{"X-Api-Key": "k"}'}},
        {"type": "aws_sqs", "topics": ["*"]},
    ],
    "/other/destinations": [
        {"type": "webhook", "topics": ["*"], **CREDENTIALS, "config": {"url": "TARGET&2"}},
    ],
}  # fmt: skip


@pytest.mark.parametrize(("system", "pages"), [("svix", SVIX), ("outpost", OUTPOST)])
def test_the_endpoints_of_another_system_are_made_paused_with_their_secrets(
    world: World, target: Receiver, tmp_path: Path, system: str, pages: Json
) -> None:
    def answer(exchange: Exchange) -> None:
        path = exchange.request.path
        page = max((end for end in pages if path.endswith(end)), key=len)
        body = json.dumps(pages[page]).replace("TARGET", target.url)
        status(200, body=body.encode())(exchange)

    name = system.upper()
    with Receiver() as other:
        other.default = answer
        url = f"http://127.0.0.1:{other.port}"
        variables = {f"{name}_URL": url, f"{name}_TOKEN": "t", f"{name}_API_KEY": "t"}
        lines = run(sys.executable, str(EXAMPLES / "moving" / f"{system}.py"), **variables)
        assert {request.headers["authorization"] for request in other.requests} == {"Bearer t"}
    file = tmp_path / "lines.jsonl"
    file.write_text(lines)

    assert import_file(file, "--go") == "2 of 2 lines: 2 made\n"

    made = {row["tenant"]: row for row in subscriptions(world, "*")}
    for row in made.values():
        assert_has(row, body="payload", last_error="disabled by hand")
    assert_has(made["customer-42"], event_types=["order.paid"], header_names=["X-Api-Key"])
    assert_has(made["other"], event_types=None, header_names=[])
    secret = world.get(f"/subscriptions/{made['other']['subscription_id']}/secret")["secret"]
    assert secret == SECRET


def test_a_customer_is_mailed_when_its_webhook_is_disabled(
    world: World, target: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    variables = {
        "SECRET": SECRET,
        "FROM": "us@example.com",
        "ADDRESSES": '{"acme": "a@acme.example"}',
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    world.clock.now = time.time()
    subscribe(world, f"{target.url}&mail", "triggers.subscription.*", secret=SECRET)
    subscribe(world, target.url, "order.*", tenant="acme", name="CRM")
    target.script(410)
    post_for(world, "acme")
    world.empty_inbox()
    push = target.requests[-1]
    request = {"headers": push.headers, "isBase64Encoded": True}
    handler = runpy.run_path(str(EXAMPLES / "mail" / "handler.py"))["handler"]
    mails: list[Json] = []
    handler.__globals__["ses"] = SimpleNamespace(send_email=lambda **mail: mails.append(mail))

    bodies = (push.body, push.body + b" ")
    answers = [handler({**request, "body": base64.b64encode(body)}, None) for body in bodies]

    assert answers == [{"statusCode": 204}, {"statusCode": 401}]
    [mail] = mails
    assert mail["Destination"] == {"ToAddresses": ["a@acme.example"]}
    assert mail["Content"]["Simple"]["Subject"]["Data"] == "Your webhook CRM is disabled"
