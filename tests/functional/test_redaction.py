"""Secrets are never in a log, a metric, an error, a message or a response, whatever happens."""

import base64
import contextlib
import json
import logging
from collections.abc import Iterator

import pytest

from chalicelib.operations.batch import BatchError
from tests.support import receiver as receivers
from tests.support.aws_calls import Aws, Fault
from tests.support.receiver import SECRET_PATH, Receiver, status
from tests.support.world import CONSUMER_KEY, KEY, PRODUCER_KEY, UNKNOWN, Answer, World, digest

SIGNING_SECRET = "whsec_" + base64.b64encode(b"signing-secret-itself-and-more").decode()
KEYS = (KEY, PRODUCER_KEY, CONSUMER_KEY, "wrong-key-itself")
CONTENTS = ("payload-itself", "metadata-itself", "member-itself")
SECRETS = (
    "secret-path",
    "secret-query",
    SIGNING_SECRET.removeprefix("whsec_"),
    "signing-secret-itself-and-more",
    *KEYS,
    *map(digest, KEYS),
)
BODY = json.dumps(
    {
        "event_type": "a",
        "payload": {"member-itself": "payload-itself"},
        "metadata": {"m": "metadata-itself"},
    }
)
BEHAVIOURS = [
    *(
        status(code, headers={"Location": "/hooks/secret-path"})
        for code in (200, 302, 404, 410, 429, 503)
    ),
    status(
        503,
        headers={"Retry-After": "payload-itself secret-query"},
        body=rb"No hooks\/secret-path?a&amp;token=secret-query",
    ),
    receivers.close_without_answer,
    receivers.reset_before_answer,
    receivers.reset_mid_headers,
    receivers.reset_mid_body,
    receivers.hang,
    receivers.garbage(b"payload-itself secret-path\r\n"),
    *(
        receivers.garbage(b"HTTP/1.1 %b\r\n\r\n" % rest)
        for rest in (b"200 OK\r\nno colon here", b"abc OK")
    ),
]


@pytest.fixture(autouse=True)
def show_other_loggers(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Let warnings of libraries reach standard error, as in Lambda."""
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)


def post_in_every_way(world: World) -> list[Answer]:
    posts = [
        world.offer(BODY),
        world.offer(BODY, prefer="respond-async"),
    ]
    with contextlib.suppress(BatchError):
        world.run_worker()
    return posts


def use_the_api(world: World) -> list[Answer]:
    """Make every call, valid or not, whose response must not repeat what was posted."""
    posted = world.offer(BODY, idempotency_key="k").json
    event = f"/events/{posted.get('event_id', UNKNOWN)}"
    bodies = (
        BODY[:-1],
        BODY.replace('"payload"', '"load"'),
        BODY.replace('"a"', '"payload-itself "'),
    )
    answers = [world.offer(body) for body in bodies]
    answers += [world.offer(BODY, key=key) for key in (None, *KEYS[2:])]
    answers += [world.call("GET", path, key=PRODUCER_KEY) for path in ("/inbox", event)]
    listed = ("/events", "/events?payload=1", "/inbox?cursor=x", "/subscriptions?tenant=a!")
    answers += [world.call("GET", path) for path in listed]
    verbs = ("replay", "acknowledge", "replay")
    answers += [world.call("POST", f"{event}/{verb}") for verb in verbs]
    target = {"target_url": f"https://127.0.0.1:70000{SECRET_PATH}"}
    return [
        *answers,
        world.call("POST", "/subscriptions", target),
        world.offer(BODY.replace("itself", "other"), idempotency_key="k"),
        world.offer(BODY, content_type="payload-itself"),
    ]


def run_schedules(world: World) -> None:
    world.sleep(61)
    for run in (world.sweep, world.check_dlq):
        with contextlib.suppress(Exception):
            run()


def assert_silence(world: World, capfd: pytest.CaptureFixture[str], answers: list[Answer]) -> None:
    written = "".join(capfd.readouterr())
    assert written
    told = "".join(f"{answer.headers} {answer.text}" for answer in answers)
    kept = json.dumps(world.messages() + world.dead_letters())
    for secret in (*SECRETS, *CONTENTS):
        for place, text in (("output", written), ("answers", told), ("messages", kept)):
            at = text.find(secret)
            assert at < 0, f"{secret} in the {place}: {text[max(0, at - 200) : at + 200]}"


def test_whatever_the_receiver_does(
    world: World, receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    world.restart(LOG_LEVEL="DEBUG", WEBHOOK_SIGNING_SECRETS=SIGNING_SECRET)
    world.restart(PUSH_TIMEOUT_SECONDS="0.3", MAX_DELIVERY_ATTEMPTS="2")
    answers = [world.call("POST", "/subscriptions", {"target_url": f"{receiver.url}&target"})]
    for behaviour in BEHAVIOURS:
        receiver.default = behaviour
        answers += post_in_every_way(world)
    receiver.default = 200
    answers += use_the_api(world)
    run_schedules(world)

    assert_silence(world, capfd, answers)
    assert all("secret-path" in request.path for request in receiver.requests)
    shown = [
        world.event(answer.json["event_id"]) for answer in answers if answer.status_code == 202
    ]
    assert "" in {attempt["response"] for event in shown for attempt in event["attempts"]}
    for secret in SECRETS:
        assert secret not in json.dumps(shown)
    assert {event["payload"]["member-itself"] for event in shown} == {"payload-itself"}


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.LOST])
@pytest.mark.parametrize("operations", [(), ("UpdateItem",), ("SendMessage", "SendMessageBatch")])
def test_whatever_aws_does(
    world: World,
    receiver: Receiver,
    aws: Aws,
    capfd: pytest.CaptureFixture[str],
    fault: Fault,
    operations: tuple[str],
) -> None:
    world.restart(LOG_LEVEL="DEBUG", WEBHOOK_SIGNING_SECRETS=SIGNING_SECRET)
    receiver.script(200, 422, 503)
    aws.fail(*operations, fault=fault)

    answers = [*post_in_every_way(world), *post_in_every_way(world), *use_the_api(world)]
    run_schedules(world)

    assert_silence(world, capfd, answers)
