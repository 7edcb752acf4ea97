"""The operator's commands, run as a user runs them: against the app on loopback, and moto's SQS."""

import itertools
import json
import os
import re
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest

from chalicelib.infra.queue import Queue
from chalicelib.infra.times import DAY_SECONDS, rfc3339
from chalicelib.subscriptions import recipients
from tests.conftest import During, Once
from tests.support import receiver as receivers
from tests.support.commands import Ran, paste
from tests.support.hooks import Hook
from tests.support.receiver import Receiver
from tests.support.running import ended
from tests.support.world import CONSUMER_KEY, KEY, World, assert_has

pytestmark = pytest.mark.usefixtures("served_app")

FAST = ("--rate", "10000")
GO = ("--go", *FAST)

Before = Callable[[str, int], None]


@pytest.fixture
def stop_before(world: World, during: During) -> Before:
    """Return a function that presses Ctrl-C before the nth call of an operation.

    `sqs.` operations are the command's, `dynamodb.` operations the app's.
    """
    clients = {"sqs": SimpleNamespace(meta=boto3.DEFAULT_SESSION), "dynamodb": world.dynamodb}

    def register(operation: str, number: int) -> None:
        numbers = itertools.count(1)

        def count(**_: object) -> None:
            if next(numbers) == number:
                os.kill(os.getpid(), signal.SIGINT)

        during(clients[operation.partition(".")[0]], f"before-call.{operation}", count)

    return register


@pytest.fixture
def acme(world: World, receiver: Receiver) -> Hook:
    """The webhook of a customer."""
    return Hook(world, receiver, tenant="acme", name="CRM")


@pytest.fixture
def other(world: World, receiver: Receiver) -> Hook:
    """The webhook of another."""
    return Hook(world, receiver, tenant="other", name="CRM")


def post(hook: Hook) -> list[str]:
    """Post an event, and let a second pass; return its id, and that of its copy."""
    copy = hook.post()
    hook.world.sleep(1)
    return [copy.event["event_id"], copy.id]


def fail(world: World, receiver: Receiver, count: int = 1) -> list[str]:
    """Make `count` dead letters, a second apart; return the event ids, oldest first."""
    receiver.default = 422
    event_ids = []
    for _ in range(count):
        event_ids.append(world.post({"card": "secret-payload"})["event_id"])
        world.sleep(1)
    receiver.default = 200
    return event_ids


def pushes(receiver: Receiver) -> Counter[str]:
    return Counter(request.headers["webhook-id"] for request in receiver.requests)


def test_dlq_groups_a_sample_without_removing_or_hiding_a_message(
    world: World, receiver: Receiver, acme: Hook
) -> None:
    dlq = ("dlq", "--stage=dev")
    place = "account 123456789012, region us-east-1, stage dev\n"
    assert Ran(*dlq).output == f"{place}triggers-api-dev-inbox-dlq is empty\n"
    *_, latest = fail(world, receiver, 2)
    letter = {"event_id": f"cpy_{0:032}", "failed_at": "", "reason": "\x1b[2Jodd"}
    url = world.environ["INBOX_DLQ_URL"]
    for body in (json.dumps({**letter, "subscription_id": acme.id}), "secret text"):
        world.outside.send_message(QueueUrl=url, MessageBody=body)

    shown = Ran(*dlq).output

    found = rf"webhook +permanent +2 +\S+Z +{latest} +1 +receiver responded 422 *\n"
    assert re.search(found, shown)
    assert re.search(rf"{acme.id} +\?\[2Jodd +1 +cpy_0", shown)
    assert re.search(r"webhook +malformed +1 +message \S+ *\n", shown)
    assert shown.endswith(
        "triggers-api-dev-inbox-dlq holds 4 messages, 0 of them in flight; sample: 4\n"
    )
    assert not re.search("secret|\x1b", shown)
    world.sleep(0.001)
    assert len(Queue(world.outside, url).receive(wait_seconds=0)) == 4
    in_flight = "triggers-api-dev-inbox-dlq holds 4 messages, 4 of them in flight; sample: 0\n"
    assert Ran(*dlq).output == place + in_flight


@pytest.mark.parametrize("there, missing", [("queue", "dlq"), ("dlq", "queue")])
def test_a_queue_that_is_missing_is_named_and_where_it_was_looked_for(
    world: World, there: str, missing: str
) -> None:
    url = world.outside.create_queue(QueueName=f"triggers-api-new-inbox-{there}")["QueueUrl"]

    ran = [Ran(command, "--stage=new", status=1) for command in ("dlq", "redrive")]

    world.outside.delete_queue(QueueUrl=url)
    assert {one.output for one in ran} == {"account 123456789012, region us-east-1, stage new\n"}
    told = f"Error: there is no queue triggers-api-new-inbox-{missing}\n"
    assert {one.errors for one in ran} == {told}


def test_a_stopped_redrive_loses_nothing_and_repeats_no_push(
    world: World, receiver: Receiver, stop_before: Before
) -> None:
    event_ids = fail(world, receiver, 15)
    dead_letters = [{**message, "id": ""} for message in world.dead_letters()]
    stop_before("sqs.DeleteMessageBatch", 11)

    errors = Ran("redrive", "--stage=dev", *FAST, status=130).errors

    assert errors.startswith("10 of 15 messages: 10 moved ")
    assert [{**message, "id": ""} for message in world.messages()] == dead_letters[:11]
    world.sleep(31)  # what was received is visible again
    said = paste(errors, "To move the rest.*").output
    assert said == (
        "account 123456789012, region us-east-1, stage dev\n"
        "5 of 5 messages: 5 moved from triggers-api-dev-inbox-dlq to triggers-api-dev-inbox-queue\n"
    )
    assert world.dead_letters() == []
    world.settle()
    assert pushes(receiver) == Counter(event_ids * 2)


def test_show_tells_the_attempts_of_an_event_and_its_payload_only_when_asked(
    world: World, receiver: Receiver
) -> None:
    headers = {"Server": "nginx", "Retry-After": "1"}
    receiver.script(receivers.status(503, body=b"come back later", headers=headers))
    event_id = world.post({"card": "secret-payload"})["event_id"]
    world.settle()

    shown = Ran("show", event_id[:12]).output

    assert shown.startswith(f"{event_id}  order.created  delivered  posted by acme\nDelivered.\n")
    answer = "503 +come back later +server: nginx, retry-after: 1"
    assert re.search(rf"Z +created *\n\S+Z +attempt: retry +\d+ ms +{answer} *\n", shown)
    assert re.search(r"Z +attempt: delivered +\d+ ms +200", shown)
    assert "secret" not in shown
    assert '"card": "secret-payload"' in Ran("show", event_id, "--payload").output


def test_show_has_a_line_for_each_recipient_with_its_copy_or_the_reason(
    world: World, acme: Hook
) -> None:
    filtered = {"order": {"total": [{"numeric": [">=", 100]}]}}
    world.subscribe(f"{acme.url}&b", filter=filtered)
    acme.target.default = 422
    event_id, copy_id = post(acme)

    shown = Ran("show", event_id).output

    failed = r"CRM \(acme\): failed: receiver responded 422"
    assert re.search(rf"\n{failed} +{acme.id} +{copy_id} *\n", shown)
    assert re.search(r"\n127\.0\.0\.1: no copy: filter, order\.total +sub_\w{32} *\n", shown)
    assert "recipient" not in Ran("show", copy_id).output


def test_an_event_is_sent_to_one_subscription(world: World, acme: Hook) -> None:
    acme.edit(event_types=["order"])
    event_id = world.post_later(tenant="acme")["event_id"]

    said = Ran("send-to", "--subscription-id", acme.id, "--event-id", event_id).output

    [copy_id] = world.event(event_id)["copies"]
    assert said.startswith(f"{copy_id}: The next attempt is due at ")
    for asked, sent in (("sub_1/", event_id), (acme.id, "evt_1")):
        refused = Ran("send-to", "--subscription-id", asked, "--event-id", sent, status=1)
        assert "404: There is no such " in refused.errors


def test_what_a_subscription_missed_is_counted_then_sent(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The page is made short: a page of full length needs hundreds of events.
    monkeypatch.setattr(recipients, "ORIGINALS", replace(recipients.ORIGINALS, limit=2))
    for _ in range(3):
        world.post_later()
    hook = Hook(world, receiver)
    world.sleep(10)
    receiver.default = 422
    Ran("send", "--type=a", "--subject=order-4711")
    receiver.default = 200
    hook.enable()
    world.sleep(5 * DAY_SECONDS)
    asked = ("--subscription-id", hook.id)
    ever = (*asked, "--since", rfc3339(0))

    # What failed or waits, however old.
    assert Ran("recover", *asked).output.startswith("1 failed of 1 event\nTo recover them: ")
    assert Ran("missed", *asked).output.endswith("\n1 failed of 1 event\n")
    counted = Ran("recover", *ever).output
    shown = Ran("missed", *ever).output
    about = Ran("missed", *asked, "--subject=order-4711").output

    assert counted.startswith("3 later, 1 failed of 4 events\n")
    assert shown.endswith("\n3 later, 1 failed of 4 events\n")
    assert re.search(
        r"\nevt_\w+ .* order-4711 +failed, receiver responded 422\s+1 failed of 1 event", about
    )
    assert world.messages() == []
    world.sleep(60)
    told = paste(counted, "To recover them").output
    assert told == "3 sent, 1 replayed, 0 left of 4 events\n"
    assert len(world.messages()) == 4
    world.empty_inbox()
    hook.edit(event_types=["none"])
    Ran("send", "--type=a")
    left_out = (
        "Every event that the subscription takes was sent to it: 4 of 5. Its event types and filter"
        " leave out 1.\n"
    )
    assert Ran("missed", *ever).output == left_out
    assert Ran("recover", *ever).output == left_out
    nothing = "No delivery of an event created before "
    hint = " failed or waits. SINCE=3d also finds events "
    assert Ran("recover", *asked).output.startswith(f"{nothing}now{hint}")
    early = "2026-01-01T00:00:00.000000Z"
    assert Ran("missed", *asked, "--until", early).output.startswith(f"{nothing}{early}{hint}")
    assert Ran("recover", *asked, "--go").output == "0 sent, 0 replayed, 0 left of 0 events\n"


def test_what_did_not_arrive_at_a_tenant_s_webhooks_is_listed_and_is_the_exit_status(
    world: World, receiver: Receiver
) -> None:
    crm, erp, _ = (
        Hook(world, receiver, path=f"/{name}", tenant="acme", name=name)
        for name in ("crm", "erp", "mail")
    )
    Hook(
        world, receiver, path="/reports", tenant="acme", name="reports", event_types=["triggers.*"]
    )
    Hook(world, receiver, path="/others", tenant="corp-inc")
    world.sleep(10)
    answers = {"crm": 422, "erp": 503, "reports": 422}
    receiver.default = lambda exchange: receivers.status(
        answers.get(exchange.request.path.rpartition("/")[2], 200)
    )(exchange)
    older = world.post_later(tenant="acme", subject="order-1")  # which CRM refuses, and ERP later
    crm.edit(dismissed_until=older["created_at"])
    newer = world.post_later(tenant="acme", subject="order-2")
    asked = ("undelivered", "--tenant=acme", "--since", newer["created_at"])

    told = Ran(*asked, status=1).output
    ever = Ran("undelivered", "--tenant=acme", "--since", rfc3339(0), status=1).output
    everybody = Ran("undelivered", *asked[2:], status=1).output

    rows = [line.split()[1:4] for line in told.splitlines() if "order-2" in line]
    assert rows == [["order-2", "crm", "failed"], ["order-2", "erp", "waiting"]]
    assert "receiver responded 422" in told
    assert re.search(rf"\n{crm.id} +crm +acme +127\.0\.0\.1 +1 +0 *\n", told)
    assert re.search(rf"\n{erp.id} +erp +acme +127\.0\.0\.1 +0 +1 *\n", told)
    since = newer["created_at"]
    assert re.search(rf"\nChecked 4 webhooks of acme for .* from {since} to 20\S+Z\.\n", told)
    assert "\n1 failed, 1 waiting\n" in told
    assert "make missed SUBSCRIPTION_ID=" in told
    assert "order-1" not in told
    assert "\n1 failed, 2 waiting\n" in ever  # what was dismissed is left out
    assert "Checked 5 webhooks for " in everybody
    assert "\n1 failed, 1 waiting\n" in everybody
    misspelt = Ran("undelivered", "--tenant=customer-43", status=1)
    assert misspelt.errors.endswith("Error: customer-43 has no webhook\n")
    answers.clear()
    world.sleep(60)
    crm.recover()
    erp.recover()
    world.empty_inbox()
    assert "\nEverything that was sent arrived" in Ran(*asked).output


@pytest.mark.usefixtures("other")
def test_a_tenant_s_subscriptions_are_counted_then_enabled_or_disabled_and_listed(
    world: World, acme: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = [acme, Hook(world, acme.target, path="1", tenant="acme", name="CRM")]
    acme.call("disable")

    counted = Ran("disable", "--tenant=acme").output

    active = rf"\n{mine[1].id} +CRM +acme +127\.0\.0\.1 +active *\n1 subscription "
    assert re.search(active, counted)
    assert acme.id not in counted
    disabled = paste(counted, "To disable them").output
    assert disabled == f"{mine[1].id} (CRM): disabled\n"
    assert Ran("disable", "--tenant=acme", "--go").output.endswith(
        "\n0 subscriptions would be disabled\n"
    )
    event = world.post_later(tenant="acme")
    world.run_worker()
    paused = Ran("subscriptions", "--tenant=acme", "--state=paused").output
    lost = re.findall(r"\n(sub_\w+) .* paused +1 +0 +(\S+)", paused)
    assert sorted(lost) == sorted((hook.id, event["created_at"]) for hook in mine)
    monkeypatch.setenv("STAGE", "prod")  # of `make subscriptions STAGE=prod`
    assert "TRIGGERS_URL is not of prod: " in Ran("subscriptions", status=1).errors
    monkeypatch.setenv("STAGE", "dev")
    assert Ran("subscriptions").output.endswith("\n3 subscriptions\n")
    refused = Ran("recover", "--subscription-id", acme.id, "--go", status=1).errors
    paste(refused, "it is paused; to enable it first")
    Ran("enable", "--tenant=acme", "--dismiss", "--go")
    assert Ran("subscriptions", "--state=disabled").output == "0 subscriptions\n"
    listed = Ran("subscriptions", "--tenant=acme").output
    assert re.search(rf"\n{mine[1].id} .* active +0 +0 *\n", listed)
    assert Ran("recover", "--subscription-id", mine[1].id).output.startswith("No delivery ")


def test_an_event_is_found_by_its_subject_and_several_are_judged_in_a_list(
    world: World, receiver: Receiver
) -> None:
    about = ("send", "--type=a", "--subject=order-4711", "--tenant=corp-inc")
    first = Ran(*about).output.split(":")[0]
    shown = Ran("show", "--subject=order-4711").output
    assert shown.startswith(f"{first}  a  delivered")
    assert "\nsubject: order-4711\n" in shown
    world.sleep(1)
    second = Ran(*about).output.split(":")[0]

    listed = Ran("show", "--subject=order-4711").output

    assert re.search(rf"\n{second} .* corp-inc *\n{first} ", listed)
    # A webhook of its tenant decides what became of it.
    receiver.default = 422
    Hook(world, receiver, path="&copies", tenant="corp-inc")
    third = Ran(*about, "--payload={}").output.split(":")[0]
    listed = Ran("show", "--subject=order-4711").output
    assert re.search(rf"\n{third} .* failed +receiver responded 422 +corp-inc *\n", listed)
    assert re.search(rf"\n{first} .* not sent +corp-inc *\n", listed)
    shown = Ran("show", first).output
    assert shown.startswith(f"{first}  a  not sent  posted by acme\nThe event itself: Delivered.\n")


def test_a_replay_takes_events_of_a_period(world: World, receiver: Receiver) -> None:
    _early, first, second, late = fail(world, receiver, 4)
    receiver.script(422)
    world.post(event_type="other.type")
    since, until = (world.event(event_id)["created_at"] for event_id in (first, late))

    ran = Ran("replay", "--since", since, "--until", until, "--event-type", "order.*", *FAST)

    assert re.search(rf"\n{first} +\S+Z +order.created .*\n{second} +\S+Z +order", ran.output)
    assert "\n2 events would be replayed. " in ran.output
    assert world.messages() == []
    queued = paste(ran.output, "To push them").output
    assert queued.startswith("2 of 2 events: 2 queued\n")
    assert [message["attributes"]["EventId"] for message in world.messages()] == [first, second]
    assert "0 events" in Ran("replay", "--since", since, "--until", until).output


def test_the_copies_of_one_subscription_are_replayed(world: World, acme: Hook, other: Hook) -> None:
    _, copy_id = post(acme)
    post(other)
    of_one = ("--since=2026-01-01", "--status=delivered", f"--subscription-id={acme.id}")

    Ran("replay", *of_one, *GO)

    assert [message["attributes"]["EventId"] for message in world.messages()] == [copy_id]


def test_events_that_are_named_are_shown_then_replayed_unless_they_are_held(
    world: World, receiver: Receiver
) -> None:
    leased, free = fail(world, receiver, 2)
    world.call("POST", "/inbox/lease", '{"limit": 1, "lease_seconds": 60}')

    shown = Ran("replay", leased, free).output
    ran = Ran("replay", leased, free, *GO, status=1)

    assert re.search(
        rf"\n{free} +\S+Z +order.created +failed +receiver responded 422 *\n2 events would be ",
        shown,
    )
    asking = f"asking {os.environ['TRIGGERS_URL']}\n"
    unknown = Ran("replay", free, "evt_1", status=1)
    assert unknown.errors == f"{asking}Error: 404: There is no such event.\n"
    assert ran.output.startswith("2 of 2 events: 1 refused, 1 queued\n")
    told = f"{asking}{leased}: 409: .*\nError: some events were refused\n"
    assert re.fullmatch(told, ran.errors)


def exist(world: World, *event_ids: str) -> list[bool]:
    return [world.call("GET", f"/events/{event_id}").status_code == 200 for event_id in event_ids]


def test_nothing_is_erased_with_a_key_that_lacks_the_scope(
    world: World, acme: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_ids = post(acme)
    monkeypatch.setenv("TRIGGERS_API_KEY", CONSUMER_KEY)

    counted = Ran("erase", "--tenant=acme").output
    refused = Ran("erase", "--tenant=acme", *GO, status=1).errors

    told = "the key in TRIGGERS_API_KEY lacks the scope erase"
    assert f"subscriptions 1\n{told}" in counted
    assert f"Error: {told}" in refused
    assert exist(world, *event_ids) == [True] * 2
    assert len(world.subscriptions("*")) == 1


def test_a_persons_events_are_counted_then_erased(world: World, once: Once) -> None:
    about = {"user_id": 42, "region": "eu"}
    others = (about, about | {"user_id": 4}, about | {"user_id": [42]}, {"user_id": 42}, None)
    kept = [world.post_later(metadata=metadata)["event_id"] for metadata in others]
    same = (about, about | {"user_id": "42"})
    matching = [world.post_later(metadata=metadata)["event_id"] for metadata in same]
    since = world.event(kept[1])["created_at"]

    counted = Ran("erase", "--metadata", "user_id=42,region=eu", "--since", since, *FAST).output

    found = "\n".join([*matching, "matching: events 2, copies 0, subscriptions 0\nTo erase them: "])
    assert counted.startswith(found)
    assert all(exist(world, *matching, *kept))

    def post_meanwhile() -> None:
        matching.append(world.post_later(metadata=about)["event_id"])

    once(world.dynamodb, "before-call.dynamodb.UpdateItem", post_meanwhile)
    erased = paste(counted, "To erase them", *FAST).output
    assert "\n2 of 2 items: 2 erased\n" in erased
    told = "1 of 1 item: 1 erased\nmatching: events 0, copies 0, subscriptions 0\n"
    assert erased.endswith(f"{matching[2]}\nmatching: events 1, copies 0, subscriptions 0\n{told}")
    assert exist(world, *matching) == [False] * 3
    assert exist(world, *kept) == [True] * 5


def test_a_tenants_events_copies_and_subscriptions_are_erased(
    world: World, acme: Hook, other: Hook
) -> None:
    mine, others = post(acme), post(other)

    counted = Ran("erase", "--tenant", "acme").output

    assert re.search(rf"^{acme.id} +CRM +acme +127.0.0.1 *$", counted, re.MULTILINE)
    found = {*mine, "matching: events 1, copies 1, subscriptions 1"}
    assert found <= {*counted.splitlines()}
    assert "secret-path" not in counted
    by_metadata = Ran("erase", "--tenant", "acme", "--metadata", "user_id=42").output
    assert by_metadata.startswith("matching: events 0, copies 0, subscriptions 0\n")
    Ran("erase", "--tenant", "acme", *GO)
    assert exist(world, *mine, *others) == [False, False, True, True]
    assert [left["subscription_id"] for left in world.subscriptions("*")] == [other.id]


def test_a_file_is_queued_once(world: World, receiver: Receiver, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    lines = [f'{{"event_type": "a", "payload": {{"n": {number // 2}}}}}\n' for number in range(40)]
    own_key = '{"event_type": "a", "payload": {"price": "€"}, "idempotency_key": "order-4711-paid"}'
    send = ("send", "--file", str(file))

    for text, told in (
        ("".join(lines), "40 of 40 lines: 40 sent\n"),
        ("".join(lines), "40 of 40 lines: 40 sent before\n"),
        (own_key, "1 of 1 line: 1 sent\n"),
    ):
        file.write_text(text, encoding="utf-8-sig")
        assert Ran(*send).output == told
    elsewhere = file.rename(tmp_path / "moved.jsonl")
    assert Ran("send", "--file", str(elsewhere)).output == "1 of 1 line: 1 sent before\n"
    for text, error in (
        ("\n", "the file has no lines"),
        ("[1]", "line 1: 400: body: must be a JSON object"),
        (own_key.replace("paid", "é"), "idempotency_key: is not one of"),
    ):
        file.write_text(text, encoding="utf-8")
        assert error in Ran(*send, status=1).errors
    assert len(world.listed("/events?limit=100")) == 41
    assert receiver.requests == []


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """An API that answers as a test tells it to."""
    with Receiver() as receiver:
        monkeypatch.setenv("TRIGGERS_URL", f"http://127.0.0.1:{receiver.port}")
        yield receiver


def test_an_api_error_is_one_line_without_the_key(fake: Receiver) -> None:
    for code, detail, error in (
        (401, b"No.", r"401: No. \(check TRIGGERS_URL and TRIGGERS_API_KEY\)"),
        (500, b"a\\u001b[2Jb", r"500: a\?\[2Jb"),
    ):
        fake.default = receivers.status(code, body=b'{"detail": "%b"}' % detail)
        errors = Ran("show", "evt_1", status=1).errors
        assert re.fullmatch(f"asking .*\nError: {error}\n", errors) is not None
        assert KEY not in errors


@pytest.mark.parametrize(
    "variable", ["URL=http://a.example", "URL=https://a:password@b.example", "URL=", "API_KEY="]
)
def test_no_call_is_made_without_a_safe_url_and_a_key(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, value = variable.partition("=")
    monkeypatch.setenv(f"TRIGGERS_{name}", value)

    assert re.fullmatch("Error: set TRIGGERS_.*\n", Ran("show", "evt_1", status=1).errors)


@pytest.mark.parametrize(
    "command, names",
    [
        ("dlq", ["STAGE="]),
        ("redrive", ["STAGE="]),
        ("show", ["EVENT_ID="]),
        ("enable", ["SUBSCRIPTION_ID=", "TENANT="]),
        ("replay", ["EVENT_ID=", "SINCE="]),
        ("replay a --since 2h", ["EVENT_ID=", "SINCE="]),
        ("replay --since a", ["SINCE="]),
        ("recover", ["SUBSCRIPTION_ID="]),
        ("send", ["TYPE=", "PAYLOAD=", "FILE="]),
        ("send --payload {", ["PAYLOAD="]),
        ("erase --since 2h", ["METADATA=", "TENANT="]),
        ("erase --tenant= --go", ["METADATA=", "TENANT="]),
        *(
            (f"erase --metadata {text}", ["METADATA="])
            for text in ("user_id=", "a,b=c", "a=1,a=2", '{"a":1', '{"a":1,"a":2}', '{"a":[1]}')
        ),
    ],
)
def test_wrong_usage_is_refused_before_any_call_and_make_names_its_variables(
    fake: Receiver, monkeypatch: pytest.MonkeyPatch, command: str, names: list[str]
) -> None:
    assert Ran(*command.split(), status=2).errors.startswith("Usage: ")

    monkeypatch.setenv("MAKELEVEL", "1")
    errors = Ran(*command.split(), status=1).errors
    assert errors.startswith("Error: ")
    assert "--" not in errors
    assert [name for name in names if name not in errors] == []
    assert fake.requests == []


@pytest.mark.parametrize("command", ["replay", "erase", "disable"])
def test_go_counts_on_the_command_line_of_make_alone(command: str) -> None:
    make = ("make", "--dry-run", "-o", ".venv/.set-up", command)
    asked = [" --go" in ended(*make, *given, GO="1")[1] for given in (["GO=1"], ["GO=2"], [])]
    assert asked == [True, False, False]


def test_make_gives_values_to_a_command_as_they_were_typed(world: World, tmp_path: Path) -> None:
    text = f"$5 $$ ${{HOME}} \\ # ' $(shell touch {tmp_path}/run)"
    value = json.dumps({"text": text})

    def make(*variables: str) -> str:
        arguments = ["make", "-o", ".venv/.set-up", f"PY={sys.executable}", *variables]
        status, output, errors = ended(*arguments)
        assert status == 0, errors
        return output

    event = world.event(
        make("send", "TYPE=a", f"PAYLOAD={value}", f"METADATA={value}").split(":")[0]
    )
    counted = make("erase", f"METADATA={value}", "SINCE=2026-01-01", "UNTIL=2027-01-01")
    [command] = re.findall("\nTo erase them: make (.*)", counted)

    assert_has(event, payload={"text": text}, metadata={"text": text})
    assert "\nmatching: events 1, copies 0, subscriptions 0\n" in counted
    assert "\n1 of 1 item: 1 erased\n" in make(*shlex.split(command))
    assert list(tmp_path.iterdir()) == []


def test_token_prints_a_token_its_end_its_link_and_how_many_webhooks_its_tenant_has(
    world: World, acme: Hook
) -> None:
    printed = Ran("token", "--tenant", "acme", "--expires-in", "7d").output

    token, *told = printed.splitlines()
    expires_at = rfc3339(world.clock() + 7 * DAY_SECONDS)
    assert_has(world.get("/me", key=token), tenant=acme.members["tenant"], expires_at=expires_at)
    link = f"{os.environ['TRIGGERS_URL']}#key={token}"
    assert told == [f"valid until {expires_at}", link, "acme has 1 webhook"]
