"""Events: what may be posted, what is returned and listed, and replays."""

import json
from functools import partial
from itertools import count
from typing import Any
from urllib.parse import urljoin

import pytest

from chalicelib.infra.errors import InvalidRequestError
from chalicelib.infra.times import rfc3339, unix_seconds
from chalicelib.web.validation import parse_new_event
from tests.conftest import Output
from tests.support.aws_calls import Aws
from tests.support.hooks import Hook
from tests.support.receiver import Exchange, Receiver, in_turn, status
from tests.support.world import (
    CONSUMER_KEY,
    EVENT,
    KEY,
    PRODUCER_KEY,
    START,
    UNKNOWN,
    Answer,
    World,
    assert_has,
    digest,
)


def assert_problem(answer: Answer, status_code: int, *fields: str) -> None:
    """Check that an answer, which fits its description, has this status and faults of exactly these
    fields.
    """
    assert (answer.status_code, answer.faults) == (status_code, sorted(fields)), answer.text


def body(**members: Any) -> str:
    return json.dumps({"event_type": "a", "payload": {}, **members})


# Posting: what is refused, before DynamoDB is asked

FAULTY: dict[str, list[Any]] = {
    "event_type": ["", "a" * 129, "a b", "ä", "a\n", "triggers.", "triggers.a", None, 1],
    "payload": [None, [], "{}", 1],
    "metadata": [[], "", 0, False],
    "tenant": ["", "a b", "a#b", "a" * 129, "ä", 1, ["a"]],
    "subject": ["", " a", "a ", "a" * 129, "a\n", "a\tb", "a\u2028b", "\x7f", 1, ["a"], {}],
    "größe": [None],
    "Payload": [{}],
}
NOT_OBJECTS = (b"null", b"[]", b'"text"', b"1")
NOT_JSON = (
    *(b"", b"{", b"{} {}", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b'{"n": tru}', b"\xff"),
    *(b'{"n": NaN}', b'{"n": [-Infinity]}', b'{"n": 1e400}', b'{"n": %s}' % (b"9" * 4301)),
    *(b'{"n": "\xed\xa0\x80"}', b'{"n": "\\ud800"}', b'{"\\udfff": 1}'),
    *(b"[" * 100_000, b'{"a":' * 40_000, b'{"a": %s1%s}' % (b"[" * 100_000, b"]" * 100_000)),
)
TOO_LARGE = (
    body(payload={"n": "x" * 256 * 1024}),
    body() + " " * 256 * 1024,
    f'{{"event_type":"a","payload":{{"n":[{",".join(["1e15"] * 30_000)}]}}}}',  # as compact JSON
)


def test_every_fault_of_an_event_is_named(world: World, aws: Aws) -> None:
    rows = [({name: value}, [name]) for name, values in FAULTY.items() for value in values]
    for members, fields in (*rows, (dict.fromkeys(FAULTY, 1), [*FAULTY])):
        assert_problem(world.offer(body(**members)), 400, *fields)
    missing = world.offer("{}")
    assert_problem(missing, 400, "event_type", "payload")
    assert {fault["message"] for fault in missing.json["errors"]} == {"is required"}
    for key in ("", "k" * 256, "schlüssel", "a\tb", "a\x7f"):
        assert_problem(world.offer(idempotency_key=key), 400, "Idempotency-Key")
    assert aws.calls == []


def test_an_unreadable_body_or_one_over_256_kib_is_refused(world: World, aws: Aws) -> None:
    for detail, bodies in (("object", NOT_OBJECTS), ("must be JSON: ", NOT_JSON)):
        for unreadable in bodies:
            answer = world.offer(unreadable)
            assert_problem(answer, 400, "body")
            assert detail in answer.json["detail"]
    for large in TOO_LARGE:
        assert_problem(world.offer(large), 413)
    nested: dict[str, Any] = {}  # as it is sorted, which takes a level more than parsing
    for _ in range(20_000):
        nested = {"a": nested}
    with pytest.raises(InvalidRequestError):
        parse_new_event({"event_type": "a", "payload": nested}, "key")
    assert aws.calls == []


def test_only_json_or_no_content_type_is_accepted_unless_the_body_is_empty(world: World) -> None:
    form = "application/x-www-form-urlencoded"
    for accepted in ("application/json", "Application/JSON", "application/json; charset=utf-8", ""):
        assert world.offer(content_type=accepted).status_code == 202
    for refused in ("text/plain", form, "application/json5", "json"):
        assert_problem(world.offer(content_type=refused), 415)
    assert world.call("POST", "/inbox/lease", "", content_type=form).status_code == 200
    assert world.offer(content_encoding="identity").status_code == 202
    assert_problem(world.offer(content_encoding="gzip"), 415)


# Posting: what is accepted


@pytest.mark.parametrize("end", ["", "/"])
def test_a_location_resolves_against_the_url_of_the_request(world: World, end: str) -> None:
    posted = world.call("POST", f"/events{end}", EVENT)
    event_path = f"/events/{posted.json['event_id']}"
    again = world.call("POST", f"{event_path}/replay{end}")
    made = world.call("POST", f"/subscriptions{end}", {"target_url": "http://127.0.0.1:9/"})
    subscription_path = f"/subscriptions/{made.json['subscription_id']}"
    body = {"event_id": posted.json["event_id"]}
    sent = world.call("POST", f"{subscription_path}/send{end}", body)

    base = "https://abc.execute-api.us-east-1.amazonaws.com/api"
    for answer, path, expected in (
        (posted, "/events", event_path),
        (again, f"{event_path}/replay", event_path),
        (made, "/subscriptions", subscription_path),
        (sent, f"{subscription_path}/send", f"/events/{sent.json['event_id']}"),
    ):
        assert urljoin(f"{base}{path}{end}", answer.headers["location"]) == f"{base}{expected}"


@pytest.mark.parametrize(
    "payload",
    [
        '{"z":1,"a":{"é":"","":"\\u2028\\u0000"},"m":["日本","🎉",null,true,1,1.0,false,[],{}]}',
        f'{{"n":{"1234567890" * 6},"m":-9007199254740993,"l":[0.1,1.5e+300,5e-324,-0.0]}}',
        f'{{"n":{"9" * 4300}}}',
        f'{{"n":{"[" * 98}{"]" * 98}}}',
        f'{{"n":"{"x" * (256 * 1024 - 42)}"}}',
    ],
)
def test_a_payload_comes_back_as_it_was_sent(
    world: World, receiver: Receiver, payload: str
) -> None:
    answer = world.offer(f'{{"event_type":"a","payload":{payload}}}')

    stored = world.call("GET", answer.location).text
    for text in (stored, receiver.requests[-1].body.decode()):
        assert json.dumps(json.loads(text)["payload"]) == json.dumps(json.loads(payload))
        assert json.loads(text)["metadata"] is None


@pytest.mark.parametrize("prefer", ["respond-async", "wait=5, Respond-Async;x=y"])
def test_respond_async_queues_the_event_without_a_push(
    world: World, receiver: Receiver, prefer: str
) -> None:
    answer = world.offer(prefer=prefer)

    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    assert_has(answer.json, status="pending", delivery_attempts=0, next_attempt_at=rfc3339(START))
    world.run_worker()
    assert world.event(answer.json["event_id"])["status"] == "delivered"
    for other in ("wait=5", "respond-asynchronously"):
        assert "preference-applied" not in world.offer(prefer=other).headers
    assert receiver.count == 3


# Idempotency


def test_the_same_key_gives_the_same_event_and_no_second_push(
    world: World, receiver: Receiver, output: Output
) -> None:
    receiver.script(503)
    first = world.offer(body(payload={"x": 1, "y": [2]}, metadata=None), idempotency_key="k")
    world.settle()
    respelled = '{"metadata":null,"payload":{"y":[2],"x":1},"event_type":"\\u0061"}'

    again = world.offer(respelled, idempotency_key="k")

    assert "idempotency-replayed" not in first.headers
    assert again.status_code == 202
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert [answer.json["status"] for answer in (first, again)] == ["pending", "delivered"]
    assert receiver.count == 2
    assert sum(values.get("EventsAccepted", 0) for values in output.metrics()) == 1


def test_the_same_key_with_another_body_is_refused(world: World, receiver: Receiver) -> None:
    world.offer(body(payload={"x": 1}), idempotency_key="k")

    payloads = [body(payload={"x": other}) for other in (2, True, "1")]
    for other in (*payloads, body(payload={"x": 1}, subject="a"), body(event_type="b")):
        assert_problem(world.offer(other, idempotency_key="k"), 422)
    assert receiver.count == 1


def test_idempotency_keys_are_literal_and_belong_to_an_api_key(
    world: World, receiver: Receiver
) -> None:
    world.restart(API_KEYS=f"a:{digest('1')},ab:{digest('2')}")
    of_a = [("1", name) for name in ("bk", '"bk"', "bk ", "BK", " ", "~" * 255)]
    pairs = [*of_a, ("2", "k"), ("2", "bk")]

    answers = [world.offer(key=key, idempotency_key=name) for key, name in pairs]

    assert len({answer.json["event_id"] for answer in answers}) == len(pairs) == receiver.count


# Reading


def test_at_most_the_last_25_attempts_are_shown_newest_last(
    world: World, receiver: Receiver
) -> None:
    receiver.default = 503
    receiver.script(*[500] * 10)
    world.restart(MAX_DELIVERY_ATTEMPTS="30", BACKOFF_BASE_SECONDS="0")
    event_id = world.post()["event_id"]
    world.run_worker()

    event = world.event(event_id)

    assert event["delivery_attempts"] == 30
    assert [attempt["status_code"] for attempt in event["attempts"]] == [500] * 5 + [503] * 20


PAGE = b"<html><h1>503 Service Unavailable</h1><p>The shop is closed for maintenance.</p>" * 3


def test_attempts_of_an_event_that_fails_for_days_take_little_room(
    world: World, receiver: Receiver
) -> None:
    receiver.default = status(503, body=PAGE, headers={"Server": "nginx", "Content-Type": "a/b"})
    event_id = world.post({"order_id": 4711})["event_id"]
    made = list[str]()
    while (event := world.event(event_id))["delivery_attempts"] < 27:
        made.append(event["attempts"][-1]["at"])
        world.sleep(max(0, unix_seconds(event["next_attempt_at"]) - world.clock()) + 60)
        world.sweep()
        world.empty_inbox()

    *_, newest = attempts = event["attempts"]
    made.append(newest["at"])
    assert len({*made}) == 27
    assert [attempt["at"] for attempt in attempts] == made[-25:]
    assert {attempt["response"] for attempt in attempts} == {PAGE[:200].decode()}
    assert newest["response_headers"] == {"server": "nginx", "content-type": "a/b"}
    # Ids of requests, which some headers are, cannot be compressed.
    having = [attempt["response_headers"] is not None for attempt in attempts]
    assert having == [False] * 23 + [True] * 2
    assert len(json.dumps(attempts)) > 7000
    values = world.item(event_id).items()
    sizes = [len(name) + len(str(*value.values())) for name, value in values]
    assert sum(sizes) < 2048


def test_an_attempt_without_response_headers_stores_no_member_for_them(world: World) -> None:
    event_id = world.post()["event_id"]

    assert world.event(event_id)["attempts"][0]["response_headers"] is None
    assert "response_headers" not in world.item(event_id)["attempts"]["S"]


def test_a_key_without_consume_sees_only_what_it_posted_and_no_response(
    world: World, receiver: Receiver
) -> None:
    headers = {"server": "nginx"}
    receiver.script(status(422, body=b"no such field", headers=headers))
    own = world.post(key=PRODUCER_KEY)["event_id"]
    others = world.post()["event_id"]

    for key, code, response in (
        (CONSUMER_KEY, 200, ("no such field", headers)),
        (PRODUCER_KEY, 404, (None, None)),
    ):
        [attempt] = world.get(f"/events/{own}", key=key)["attempts"]
        assert (attempt["response"], attempt["response_headers"]) == response
        hidden = world.call("GET", f"/events/{others}", key=key)
        assert hidden.status_code == code
    assert hidden.text == world.call("GET", f"/events/{UNKNOWN}").text


@pytest.mark.parametrize(
    "call",
    [
        *("GET /events/{}", "POST /events/{}/acknowledge", "POST /events/{}/replay"),
        *("DELETE /events/{}", "POST /events/{}/release?lease_id=lse_1"),
        *("GET /subscriptions/{}", "DELETE /subscriptions/{}"),
        *("POST /subscriptions/{}/test", "POST /subscriptions/{}/enable"),
    ],
)
def test_a_malformed_id_is_not_found_without_asking_dynamodb(
    world: World, aws: Aws, call: str
) -> None:
    method, path = call.split()
    known = UNKNOWN if "events" in path else UNKNOWN.replace("evt_", "sub_")
    for malformed in ("x", known[:-1], known + "0", known.upper(), f"{known}\n", f"evt_{known}"):
        assert_problem(world.call(method, path.format(malformed)), 404)
    assert aws.calls == []


def test_an_expired_event_is_absent_before_dynamodb_deletes_it(world: World) -> None:
    event_id = world.queued()
    world.sleep(30 * 86400)

    for method, suffix in (("GET", ""), ("POST", "/acknowledge"), ("POST", "/replay")):
        for absent in (event_id, UNKNOWN):
            assert_problem(world.call(method, f"/events/{absent}{suffix}"), 404)
    assert world.listed("/events") == world.listed() == []


def test_the_body_of_a_push_is_told_as_it_would_be_sent_now(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    customer = Hook(world, target, tenant="a", body="payload")
    copy = customer.post()
    event_id = copy.event["event_id"]

    def told(event_id: str, key: str = KEY) -> Any:
        return world.get(f"/events/{event_id}", key=key)["push_body"]

    assert told(event_id) == receiver.requests[-1].body.decode()
    assert told(copy.id) == told(copy.id, world.make_token("a")) == "{}"
    assert target.requests[-1].body == b"{}"
    customer.edit(body=None)
    customer.call("disable")
    assert copy.id in told(copy.id)
    customer.delete()
    own = world.post(key=PRODUCER_KEY)["event_id"]
    world.restart(ZAPIER_WEBHOOK_URL="none")
    assert [told(copy.id), told(event_id), told(own, PRODUCER_KEY)] == [None] * 3


# Listing


def test_events_are_listed_by_time_and_type_state_and_order(
    world: World, receiver: Receiver
) -> None:
    receiver.script(200, 503, 422)
    posted = []
    # the clock starts at 2026-11-18T11:06:40Z
    types = ("order.created", "order", "invoice.paid", "order.created")
    for event_type, seconds in zip(types, (0, 1, 1.000001, 2), strict=True):
        world.clock.now = START + seconds
        posted.append(world.post(event_type=event_type)["event_id"])

    for path, expected in (
        ("/events", posted[::-1]),
        ("/events?status=pending", posted[1:2]),
        ("/inbox", posted[1:3]),
        ("/inbox?order=newest", posted[2:0:-1]),
        ("/inbox?event_type=order", posted[1:2]),
    ):
        assert world.listed(path) == expected, path
    for query, expected in (
        ("since=2026-11-18T11:06:41Z", posted[1:]),
        ("until=2026-11-18T11:06:41Z", posted[:1]),
        ("since=2026-11-18T11:06:41.000001Z&until=2026-11-18T11:06:42Z", posted[2:3]),
        ("since=2026-11-18T12:06:41%2B01:00&until=2026-11-18T06:36:41.000001-04:30", posted[1:2]),
        ("since=2026-11-18T11:06:41.000000%2B0000&until=2026-11-18T11:06:41.000001Z", posted[1:2]),
        ("since=2026-11-18t12:06:41 01:00", posted[1:]),  # an unescaped + is a space
        ("since=2026-11-18T11:06:41.0000001Z&until=9999-12-31T23:59:59Z", posted[1:]),
        ("since=2026-11-18T11:06:41Z&until=2026-11-18T11:06:41Z", []),
        ("since=2026-11-18T11:06:42Z&until=2026-11-18T11:06:40Z", []),
        ("event_type=order*", [*posted[:2], posted[3]]),
        ("event_type=order.*", [posted[0], posted[3]]),
        ("event_type=order", posted[1:2]),
        ("event_type=*&since=2026-11-18T11:06:42Z", posted[3:]),
        ("source=original&subscription_id=sub_" + "0" * 32, []),
    ):
        assert world.listed(f"/events?{query}&order=oldest") == expected, query
    errors = [event["last_error"] for event in world.get("/events")["events"]]
    assert errors == [None, "receiver responded 422", "receiver responded 503", None]
    for path in ("/events", "/events?include=payload", "/inbox"):
        for event in world.get(path)["events"]:
            whole = world.event(event["event_id"])
            assert ("payload" in event) == (path != "/events")
            assert event == {name: whole[name] for name in event}


@pytest.mark.parametrize("text", ["я", "\x7f", '"'], ids=["Cyrillic", "DEL", "quotes"])
def test_a_page_with_payloads_fits_into_a_response_of_lambda(world: World, text: str) -> None:
    """Lambda quotes a response as JSON once more and, before Python 3.12, escapes all but ASCII."""
    event = json.dumps({"event_type": "a", "payload": {"text": text * 100_000}}, ensure_ascii=False)
    for _ in range(16):
        assert world.offer(event, prefer="respond-async").status_code == 202

    for path in ("/inbox?limit=100", "/events?limit=100&include=payload"):
        page = world.call("GET", path)
        assert page.json["next_cursor"]
        assert len(json.dumps(page.text)) < 6_000_000


ARABIC = f"202%D9%A6-11-25T02:25:03.464098Z~{UNKNOWN}"
NO_TIMES = "yesterday 2026-11-18 2026-11-18T11:06 2026-02-30T00:00:00Z 0001-01-01T00:00:00%2B01:00"
BAD_PARAMETERS = {
    "order": ["", "up", "Newest", "oldest%0a"],
    "limit": ["", "0", "101", "-1", "1.5", "05", "ten", "%D9%A1", "50%0a", "5&limit=6"],
    "cursor": ["x", "A" * 96, "%C3%BC" * 96, ARABIC],
    "event_type": ["a%20b"],
}
BAD_PARAMETERS_OF_EVENTS = {
    "status": ["gone", "", "Failed", "undelivered"],
    "include": ["", "all"],
    "subject": ["", "%20a", "a%20", "a" * 129],
    "subscription_id": ["", "sub_1"],
    "since": ["", *NO_TIMES.split()],
    "until": ["", *NO_TIMES.split()],
}


def test_every_fault_of_a_query_is_named(world: World, aws: Aws) -> None:
    def expect(path: str, query: str, *fields: str) -> None:
        assert_problem(world.call("GET", f"{path}?{query}"), 400, *fields)

    of_events = BAD_PARAMETERS | BAD_PARAMETERS_OF_EVENTS
    for path, parameters in (("/events", of_events), ("/inbox", BAD_PARAMETERS)):
        for name, values in parameters.items():
            for bad in values:
                expect(path, f"{name}={bad}", name)
        expect(path, "unknown=1&Status=pending", "unknown", "Status")
        expect(path, "limit=0&order=up&cursor=x&a=1", "limit", "order", "cursor", "a")
    others = f"since=2026-11-18T11:06:41Z&status=failed&subscription_id=sub_{0:032}"
    expect("/inbox", others, "since", "status", "subscription_id")
    assert aws.calls == []


def test_events_copies_and_pushes_are_found_by_their_exact_subject(
    world: World, receiver: Receiver, hook: Hook
) -> None:
    receiver.default = 503
    subjects = ("order-1", "order-11", "order-*", "*", "order-1", "Größe", None)
    events = [world.post_later(subject=subject) for subject in subjects]

    for event, *pushes in zip(events, receiver.requests, hook.target.requests, strict=True):
        subject = event["subject"]
        whole = [world.event(event["event_id"]), *world.copies(event)]
        assert [shown["subject"] for shown in (event, *whole)] == [subject] * 3
        for pushed in (push.json() for push in pushes):
            assert ("subject" in pushed) == (subject is not None)
            assert pushed.get("subject") == subject
    for subject in filter(None, subjects):
        about = [event for event in reversed(events) if event["subject"] == subject]
        found = f"/events?subject={subject}"
        page = world.call("GET", found)
        assert page.event_ids == [event["event_id"] for event in about]
        assert {event["last_error"] for event in page.json["events"]} == {"receiver responded 503"}
        of_hook = [copy_id for event in about for copy_id in event["copies"]]
        assert world.listed(f"{found}&subscription_id={hook.id}") == of_hook
    [first] = world.listed("/events?subject=order-1&order=oldest&limit=1")
    assert first == events[0]["event_id"]
    world.acknowledge(first)
    assert world.listed("/events?subject=order-1&status=delivered") == [first]


def test_lists_leave_subjects_out_unless_asked_for_them(
    world: World, receiver: Receiver, hook: Hook
) -> None:
    receiver.default = 422
    world.post_later(subject="order-1", tenant="a")

    for query in ("limit=9", "status=failed", "tenant=a"):
        assert all("subject" not in event for event in world.get(f"/events?{query}")["events"])
    for call in (
        "GET /events?tenant=a&include=subject",
        "GET /events?subject=order-1",
        f"GET /events?subscription_id={hook.id}",
        "GET /events?include=payload",
        "GET /events?include=subject",
        "GET /inbox",
        "POST /inbox/lease",
    ):
        shown = world.call(*call.split()).json["events"]
        assert {event["subject"] for event in shown} == {"order-1"}, call


# Acknowledging and replaying


@pytest.mark.parametrize("code, via", [(503, "pull"), (422, "pull"), (200, "push")])
def test_an_acknowledgement_counts_once_if_undelivered(
    world: World, receiver: Receiver, code: int, via: str
) -> None:
    receiver.script(code)
    event_id = world.post()["event_id"]
    first = world.acknowledge(event_id)
    after_it = world.event(event_id)
    world.sleep(10)

    again = world.acknowledge(event_id, key=CONSUMER_KEY)

    assert [(answer.status_code, answer.text) for answer in (first, again)] == [(204, "")] * 2
    assert_has(after_it, status="delivered", delivered_via=via)
    assert world.event(event_id) == after_it


def test_no_event_is_delivered_before_it_is_created(
    world: World, receiver: Receiver, output: Output
) -> None:
    receiver.script(in_turn(lambda _: world.sleep(-1), status(200)))  # the clock is put back
    pushed = world.post()
    latencies = [line["DeliveryLatency"] for line in output.metrics() if "DeliveryLatency" in line]
    world.restart(ZAPIER_WEBHOOK_URL="none")
    event_id = world.post()["event_id"]
    world.sleep(-2)  # the clock of another container
    world.acknowledge(event_id)
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions")
    world.services.clock = partial(next, count(START, 0.001))

    assert latencies == [0]
    for event in (pushed, world.event(event_id), world.post()):
        assert event["delivered_at"] == event["created_at"]


@pytest.mark.parametrize("code", [200, 503, 422])
def test_during_a_push_an_event_cannot_be_replayed_and_an_acknowledgement_stands(
    world: World, receiver: Receiver, code: int, output: Output
) -> None:
    answers: list[Answer] = []

    def call_meanwhile(push: Exchange) -> None:
        event_id = push.request.headers["webhook-id"]
        answers.extend((world.replay(event_id), world.acknowledge(event_id)))

    receiver.script(in_turn(call_meanwhile, status(code)))
    event_id = world.post()["event_id"]

    assert world.messages() == []
    world.settle()
    replayed, acknowledged = answers
    assert_problem(replayed, 409)
    assert replayed.headers["retry-after"] == "60"
    assert acknowledged.status_code == 204
    assert_has(world.event(event_id), status="delivered", delivered_via="pull")
    assert receiver.count == 1
    told = {name for values in output.metrics() for name in values}
    assert told.isdisjoint({"DeliverySuccess", "DeliveryFailure"})


@pytest.mark.parametrize("ending", [200, 503, 422, "pull"])
def test_an_event_of_any_status_can_be_replayed(
    world: World, receiver: Receiver, ending: Any, output: Output
) -> None:
    receiver.script(503 if ending == "pull" else ending)
    event_id = world.post()["event_id"]
    if ending == "pull":
        world.acknowledge(event_id)
    world.sleep(100)

    answer = world.replay(event_id)

    assert answer.status_code == 202
    due = {"delivery_attempts": 0, "next_attempt_at": rfc3339(START + 100), "delivered_via": None}
    assert_has(answer.json, event_id=event_id, status="pending", **due)
    output.lines()
    world.sleep(5)
    world.run_worker()
    event = world.event(event_id)
    assert_has(event, status="delivered", delivered_via="push", delivery_attempts=1)
    assert [request.headers["webhook-id"] for request in receiver.requests] == [event_id] * 2
    assert output.metrics()[0]["DeliveryLatency"] == 5000
