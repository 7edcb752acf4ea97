"""Events: what may be posted, what is returned and listed, and replays."""

import json
from bisect import bisect_left
from functools import partial
from itertools import count
from typing import Any
from urllib.parse import urlencode, urljoin

import pytest

from chalicelib.infra.errors import InvalidRequestError
from chalicelib.infra.times import rfc3339, unix_seconds
from chalicelib.web.validation import parse_new_event
from tests.conftest import Output
from tests.support.aws_calls import Aws
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


# Posting


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


def test_an_unreadable_body_is_a_fault_of_the_body(world: World, aws: Aws) -> None:
    byte_order_mark = b"\xef\xbb\xbf{}"
    utf_16 = "{}".encode("utf-16")
    not_objects = (b"null", b"[]", b'"text"', b"1")
    not_json = (
        b"",
        b"{",
        b"{} {}",
        byte_order_mark,
        b'{"n": tru}',
        b"\xff",
        utf_16,
        b'{"n": "\xed\xa0\x80"}',
    )
    numbers = (b'{"n": NaN}', b'{"n": [-Infinity]}', b'{"n": 1e400}', b'{"n": %s}' % (b"9" * 4301))
    surrogates = (b'{"n": "\\ud800"}', b'{"\\udfff": 1}')
    nested = (b"[" * 100_000, b'{"a":' * 40_000, b'{"a": %s1%s}' % (b"[" * 100_000, b"]" * 100_000))
    for body in (*not_objects, *not_json, *numbers, *surrogates, *nested):
        answer = world.offer(body)
        assert_problem(answer, 400, "body")
        assert ("object" if body in not_objects else "must be JSON: ") in answer.json["detail"]
    assert aws.calls == []


def test_a_body_that_is_nested_too_deep_to_be_sorted_is_refused(world: World) -> None:
    def post(levels: int) -> int:
        payload = '{"a":' * levels + '{"b":1,"a":2}' + "}" * levels
        body = f'{{"event_type": "a", "payload": {payload}}}'
        return world.offer(body, idempotency_key=f"{levels}").status_code

    refused = bisect_left(range(1, 20_000), 400, key=post) + 1
    assert {post(levels) for levels in range(refused - 20, refused + 20)} == {202, 400}
    payload: dict[str, Any] = {}
    for _ in range(20_000):
        payload = {"a": payload}
    with pytest.raises(InvalidRequestError):
        parse_new_event({"event_type": "a", "payload": payload}, "key")


def test_every_fault_of_an_event_is_named(world: World, aws: Aws) -> None:
    faulty: dict[str, list[Any]] = {
        "event_type": ["", "a" * 129, "a b", "ä", "a\n", "triggers.", "triggers.a", None, 1],
        "payload": [None, [], "{}", 1],
        "metadata": [[], "", 0, False],
        "tenant": ["", "a b", "a#b", "a" * 129, "ä", 1, ["a"]],
        "größe": [None],
        "Payload": [{}],
    }
    bodies = [({member: value}, [member]) for member, values in faulty.items() for value in values]
    for body, fields in (*bodies, (dict.fromkeys(faulty, 1), list(faulty))):
        posted = json.dumps({"event_type": "a", "payload": {}, "metadata": {}, **body})
        assert_problem(world.offer(posted), 400, *fields)
    missing = world.offer("{}")
    assert_problem(missing, 400, "event_type", "payload")
    assert {fault["message"] for fault in missing.json["errors"]} == {"is required"}
    assert aws.calls == []


def test_payload_and_metadata_come_back_as_they_were_sent(world: World, receiver: Receiver) -> None:
    for payload in (
        '{"z":1,"a":{"é":"","":"\\u2028\\u0000"},"m":["日本","🎉",null,true,1,1.0,false,[],{}]}',
        '{"n":123456789012345678901234567890123456789012345678901234567890,"m":-9007199254740993}',
        f'{{"n":{"9" * 4300}}}',
        '{"n":[0.1,1.5e+300,5e-324,-0.0]}',
        f'{{"n":{"[" * 98}{"]" * 98}}}',
        f'{{"n":"{"x" * (256 * 1024 - 42)}"}}',
    ):
        posted = f'{{"event_type":"a","payload":{payload}}}'
        assert len(posted.encode()) <= 256 * 1024

        answer = world.offer(posted)

        assert answer.status_code == 202
        stored = world.call("GET", answer.location)
        for text in (stored.text, receiver.requests[-1].body.decode()):
            assert json.dumps(json.loads(text)["payload"]) == json.dumps(json.loads(payload))
            assert json.loads(text)["metadata"] is None


def test_a_body_over_256_kib_as_sent_or_as_compact_json_is_too_large(
    world: World, aws: Aws
) -> None:
    for body in (
        f'{{"event_type":"a","payload":{{"n":"{"x" * 256 * 1024}"}}}}',
        EVENT + " " * 256 * 1024,
        f'{{"event_type":"a","payload":{{"n":[{",".join(["1e15"] * 30_000)}]}}}}',
    ):
        assert_problem(world.offer(body), 413)
    assert aws.calls == []


def test_only_json_or_no_content_type_is_accepted_unless_the_body_is_empty(world: World) -> None:
    for content_type in (
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "",
    ):
        assert world.offer(content_type=content_type).status_code == 202
    for content_type in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json5",
        "json",
    ):
        assert_problem(world.offer(content_type=content_type), 415)
    form = "application/x-www-form-urlencoded"
    assert world.call("POST", "/inbox/lease", "", content_type=form).status_code == 200
    assert world.offer(content_encoding="identity").status_code == 202
    assert_problem(world.offer(content_encoding="gzip"), 415)


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
    body = '{"event_type": "a", "payload": {"x": 1, "y": [2]}, "metadata": null}'
    first = world.offer(body, idempotency_key="k")
    world.settle()
    respelled = '{"metadata":null,"payload":{"y":[2],"x":1},"event_type":"\\u0061"}'

    again = world.offer(respelled, idempotency_key="k")

    assert "idempotency-replayed" not in first.headers
    assert again.status_code == 202
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert first.json["status"] == "pending"
    assert again.json["status"] == "delivered"
    assert receiver.count == 2
    assert sum(values.get("EventsAccepted", 0) for values in output.metrics()) == 1


def test_the_same_key_with_another_body_is_refused(world: World, receiver: Receiver) -> None:
    body = '{"event_type": "a", "payload": {"x": 1}}'
    world.offer(body, idempotency_key="k")

    for this, other in (
        ('"a"', '"b"'),
        ("1", "2"),
        ("1", "true"),
        ("1", '"1"'),
        ("1}", '1}, "subject": "a"'),
    ):
        assert_problem(world.offer(body.replace(this, other), idempotency_key="k"), 422)
    assert receiver.count == 1


def test_idempotency_keys_are_literal_and_belong_to_an_api_key(
    world: World, receiver: Receiver
) -> None:
    world.restart(API_KEYS=f"a:{digest('1')},ab:{digest('2')}")
    names = {"1": ["bk", '"bk"', "bk ", "BK", " ", "~" * 255], "2": ["k", "bk"]}
    pairs = [(key, name) for key, its_names in names.items() for name in its_names]

    answers = [world.offer(key=key, idempotency_key=name) for key, name in pairs]

    assert len({answer.json["event_id"] for answer in answers}) == len(pairs) == receiver.count


def test_an_unusable_idempotency_key_is_a_fault(world: World, aws: Aws) -> None:
    for key in ("", "k" * 256, "schlüssel", "a\tb", "a\x7f"):
        assert_problem(world.offer(idempotency_key=key), 400, "Idempotency-Key")
    assert aws.calls == []


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


OF_ONE = [
    "GET /events/{}",
    "POST /events/{}/acknowledge",
    "POST /events/{}/release?lease_id=lse_1",
    "POST /events/{}/replay",
    "DELETE /events/{}",
    "GET /subscriptions/{}",
    "DELETE /subscriptions/{}",
    "POST /subscriptions/{}/test",
    "POST /subscriptions/{}/enable",
]


@pytest.mark.parametrize("call", OF_ONE)
def test_a_malformed_id_is_not_found_without_asking_dynamodb(
    world: World, aws: Aws, call: str
) -> None:
    method, path = call.split()
    known = UNKNOWN if "events" in path else UNKNOWN.replace("evt_", "sub_")
    for malformed in ("x", known[:-1], known + "0", known.upper(), f"{known}\n", f"evt_{known}"):
        assert_problem(world.call(method, path.format(malformed)), 404)
    assert aws.calls == []


def test_an_expired_event_is_absent_before_dynamodb_deletes_it_like_an_unknown_one(
    world: World,
) -> None:
    event_id = world.queued()
    world.sleep(30 * 86400)

    for method, suffix in (("GET", ""), ("POST", "/acknowledge"), ("POST", "/replay")):
        for absent in (event_id, UNKNOWN):
            assert_problem(world.call(method, f"/events/{absent}{suffix}"), 404)
    assert world.listed("/events") == []
    assert world.listed() == []


def test_the_body_of_a_push_is_told_as_it_would_be_sent_now(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    path = world.subscribe(target, tenant="a", body="payload").location
    event = world.post_for("a")
    own, copy = (f"/events/{event_id}" for event_id in (event["event_id"], *event["copies"]))

    def told(path: str, key: str = KEY) -> Any:
        return world.get(path, key=key)["push_body"]

    assert told(own) == receiver.requests[-1].body.decode()
    assert told(copy) == told(copy, world.make_token("a")) == target.requests[-1].body.decode()
    world.call("PATCH", path, {"body": None})
    world.call("POST", f"{path}/disable")
    assert copy[-36:] in told(copy)
    world.call("DELETE", path)
    mine = world.post(key=PRODUCER_KEY)["event_id"]
    world.restart(ZAPIER_WEBHOOK_URL="none")
    assert [told(copy), told(own), told(f"/events/{mine}", PRODUCER_KEY)] == [None] * 3


# Listing


def test_events_are_listed_newest_first_and_the_inbox_oldest_first(
    world: World, receiver: Receiver
) -> None:
    receiver.script(200, 503, 422)
    posted = []
    for number in range(3):
        posted.append(world.post({"n": number}, event_type="ab"[number % 2])["event_id"])
        world.sleep(1)

    for path, expected in (
        ("/events", posted[::-1]),
        ("/events?status=pending", posted[1:2]),
        ("/inbox", posted[1:]),
        ("/inbox?order=newest", posted[:0:-1]),
        ("/inbox?event_type=b", posted[1:2]),
    ):
        assert world.listed(path) == expected, path
    errors = [event["last_error"] for event in world.get("/events")["events"]]
    assert errors == ["receiver responded 422", "receiver responded 503", None]
    for path in ("/events", "/events?include=payload", "/inbox"):
        for event in world.get(path)["events"]:
            whole = world.event(event["event_id"])
            assert ("payload" in event) == (path != "/events")
            assert event == {name: whole[name] for name in event}


@pytest.mark.parametrize("text", ["я", "\x7f", '"'], ids=["Cyrillic", "DEL", "quotes"])
def test_a_page_with_payloads_fits_into_a_response_of_lambda(world: World, text: str) -> None:
    """Lambda quotes a response as JSON once more and, before Python 3.12, escapes all but ASCII."""
    body = json.dumps({"event_type": "a", "payload": {"text": text * 100_000}}, ensure_ascii=False)
    for _ in range(16):
        assert world.offer(body, prefer="respond-async").status_code == 202

    for path in ("/inbox?limit=100", "/events?limit=100&include=payload"):
        page = world.call("GET", path)

        assert page.json["next_cursor"]
        assert len(json.dumps(page.text)) < 6_000_000


ARABIC = f"202%D9%A6-11-25T02:25:03.464098Z~{UNKNOWN}"


@pytest.mark.parametrize("path", ["/events", "/inbox"])
def test_every_fault_of_a_query_is_named(world: World, aws: Aws, path: str) -> None:
    for query, fields in (
        ("unknown=1&Status=pending", ["unknown", "Status"]),
        *((f"order={bad}", ["order"]) for bad in ("", "up", "Newest", "oldest%0a")),
        *(
            (f"limit={bad}", ["limit"])
            for bad in ("", "0", "101", "-1", "1.5", "05", "ten", "%D9%A1", "50%0a")
        ),
        *((f"cursor={bad}", ["cursor"]) for bad in ("x", "A" * 96, "%C3%BC" * 96, ARABIC)),
        ("event_type=a%20b", ["event_type"]),
        ("limit=5&limit=6", ["limit"]),
        ("limit=0&order=up&cursor=x&a=1", ["limit", "order", "cursor", "a"]),
    ):
        assert_problem(world.call("GET", f"{path}?{query}"), 400, *fields)
    assert aws.calls == []


def test_every_fault_of_what_events_alone_are_asked_for_is_named(world: World, aws: Aws) -> None:
    times = "yesterday 2026-11-18 2026-11-18T11:06 2026-02-30T00:00:00Z 0001-01-01T00:00:00%2B01:00"
    for name, values in {
        "status": ["gone", "", "Failed", "undelivered"],
        "include": ["", "all"],
        "subscription_id": ["", "sub_1"],
        "since": ["", *times.split()],
        "until": ["", *times.split()],
    }.items():
        for bad in values:
            assert_problem(world.call("GET", f"/events?{name}={bad}"), 400, name)
    own = f"since=2026-11-18T11:06:41Z&status=failed&subscription_id=sub_{0:032}"
    assert_problem(world.call("GET", f"/inbox?{own}"), 400, "since", "status", "subscription_id")
    assert aws.calls == []


def test_events_are_listed_by_time_and_type(world: World) -> None:
    posted = []
    # the clock starts at 2026-11-18T11:06:40Z
    types = ("order.created", "order", "invoice.paid", "order.created")
    for event_type, seconds in zip(types, (0, 1, 1.000001, 2), strict=True):
        world.clock.now = START + seconds
        posted.append(world.post(event_type=event_type)["event_id"])

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


def test_an_event_its_copies_and_pushes_have_the_subject(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    world.subscribe(target)
    for subject in ("Größe 4", None):
        event = world.post_later(subject=subject)
        whole = [world.event(event["event_id"]), *world.copies(event)]
        assert [shown["subject"] for shown in (event, *whole)] == [subject] * 3
        for pushed in (receiver.requests.pop().json(), target.requests.pop().json()):
            assert ("subject" in pushed) == (subject is not None)
            assert pushed.get("subject") == subject


def find(world: World, **query: str) -> Answer:
    return world.call("GET", f"/events?{urlencode(query)}")


def test_events_and_copies_are_found_by_their_exact_subject(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    subscription_id = world.subscribe(target).new_id
    receiver.default = 503
    subjects = ("order-1", "order-11", "order-*", "*", "order-1")
    events = [world.post_later(subject=subject) for subject in subjects]

    for subject in subjects:
        about = [event for event in reversed(events) if event["subject"] == subject]
        found = find(world, subject=subject)
        assert found.event_ids == [event["event_id"] for event in about]
        assert {event["last_error"] for event in found.json["events"]} == {"receiver responded 503"}
        of_subscription = find(world, subject=subject, subscription_id=subscription_id)
        assert of_subscription.event_ids == [
            copy_id for event in about for copy_id in event["copies"]
        ]
    first = events[0]["event_id"]
    world.acknowledge(first)
    assert find(world, subject="order-1", status="delivered").event_ids == [first]
    assert find(world, subject="order-1", order="oldest", limit="1").event_ids == [first]


def test_lists_leave_subjects_out_unless_asked_for_them(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    receiver.default = 422
    subscription_id = world.subscribe(target).new_id
    world.post_later(subject="order-1", tenant="a")

    for query, shown in (
        ({}, "left out"),
        ({"status": "failed"}, "left out"),
        ({"tenant": "a"}, "left out"),
        ({"tenant": "a", "include": "subject"}, "order-1"),
        ({"subject": "order-1"}, "order-1"),
        ({"subscription_id": subscription_id}, "order-1"),
        ({"include": "payload"}, "order-1"),
        ({"include": "subject"}, "order-1"),
    ):
        assert {
            event.get("subject", "left out") for event in find(world, **query).json["events"]
        } == {shown}
    for call in (("GET", "/inbox"), ("POST", "/inbox/lease")):
        assert [event["subject"] for event in world.call(*call).json["events"]] == ["order-1"]


@pytest.mark.parametrize(
    "subject", ["", " a", "a ", "a" * 129, "a\n", "a\tb", "a\u2028b", "\x7f", 1, ["a"], {}]
)
def test_a_bad_subject_is_refused(world: World, subject: Any) -> None:
    answer = world.offer({"event_type": "a", "payload": {}, "subject": subject})
    assert answer.faults == ["subject"]
    if subject in ("", " a", "a ", "a" * 129):
        assert find(world, subject=subject).faults == ["subject"]


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
    assert pushed["delivered_at"] == pushed["created_at"]
    assert [line["DeliveryLatency"] for line in output.metrics() if "DeliveryLatency" in line] == [
        0
    ]
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions")
    world.services.clock = partial(next, count(START, 0.001))
    made = world.post()
    assert made["delivered_at"] == made["created_at"]
    world.restart(ZAPIER_WEBHOOK_URL="none")
    event_id = world.post()["event_id"]
    world.sleep(-2)  # the clock of another container
    world.acknowledge(event_id)
    event = world.event(event_id)
    assert event["delivered_at"] == event["created_at"]


@pytest.mark.parametrize("code", [200, 503, 422])
def test_during_a_push_an_event_cannot_be_replayed_and_an_acknowledgement_stands(
    world: World, receiver: Receiver, code: int, output: Output
) -> None:
    answers: list[Answer] = []

    def call_meanwhile(push: Exchange) -> None:
        path = f"/events/{push.request.headers['webhook-id']}"
        answers.extend(world.call("POST", f"{path}/{verb}") for verb in ("replay", "acknowledge"))

    receiver.script(in_turn(call_meanwhile, status(code)))

    event_id = world.post()["event_id"]

    assert world.messages() == []
    world.settle()
    assert_problem(answers[0], 409)
    assert answers[0].headers["retry-after"] == "60"
    assert answers[1].status_code == 204
    event = world.event(event_id)
    assert (event["status"], event["delivered_via"], receiver.count) == (
        "delivered",
        "pull",
        1,
    )
    assert not [
        values
        for values in output.metrics()
        if {"DeliverySuccess", "DeliveryFailure"} & values.keys()
    ]


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
    event = answer.json
    assert_has(
        event,
        event_id=event_id,
        status="pending",
        delivery_attempts=0,
        next_attempt_at=rfc3339(START + 100),
        delivered_via=None,
    )
    output.lines()
    world.sleep(5)
    world.run_worker()
    event = world.event(event_id)
    assert_has(event, status="delivered", delivered_via="push", delivery_attempts=1)
    assert [request.headers["webhook-id"] for request in receiver.requests] == [event_id] * 2
    assert output.metrics()[0]["DeliveryLatency"] == 5000
