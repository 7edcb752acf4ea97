"""GET /events: by time, by prefix, without copies; what a listed event says."""

import itertools

import pytest

from tests.support.aws import Aws
from tests.support.receiver import Receiver, status
from tests.support.subscribing import ids
from tests.support.world import START, World

# The clock starts at 2026-11-18T11:06:40Z; events come at 0, 1, 1.000001 and 2 seconds after it.
SECONDS = (0, 1, 1.000001, 2)


@pytest.fixture
def posted(world: World) -> list[str]:
    """Post four events; return their ids."""
    event_ids = []
    for number, seconds in enumerate(SECONDS):
        world.clock.now = START + seconds
        event_ids.append(world.post(event_type=("order.created", "order", "invoice.paid")[number % 3])["event_id"])
    return event_ids


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("since=2026-11-18T11:06:41Z", [1, 2, 3]),
        ("until=2026-11-18T11:06:41Z", [0]),
        ("since=2026-11-18T11:06:41.000001Z&until=2026-11-18T11:06:42Z", [2]),
        ("since=2026-11-18T12:06:41%2B01:00&until=2026-11-18T06:36:41.000001-04:30", [1]),
        ("since=2026-11-18t12:06:41 01:00", [1, 2, 3]),  # an unescaped + is a space
        ("since=2026-11-18T11:06:41.0000001Z&until=9999-12-31T23:59:59Z", [1, 2, 3]),
        ("since=2026-11-18T11:06:41Z&until=2026-11-18T11:06:41Z", []),
        ("since=2026-11-18T11:06:42Z&until=2026-11-18T11:06:40Z", []),
        ("event_type=order*", [0, 1, 3]),
        ("event_type=order.*", [0, 3]),
        ("event_type=order", [1]),
        ("event_type=*&since=2026-11-18T11:06:42Z", [3]),
        ("source=original&subscription_id=sub_" + "0" * 32, []),
    ],
)
def test_events_are_listed_by_time_and_type(world: World, posted: list[str], query: str, expected: list[int]) -> None:
    for order in ("oldest", "newest"):
        matching = [posted[number] for number in expected]
        if order == "newest":
            matching.reverse()
        assert ids(world.call("GET", f"/events?{query}&order={order}")) == matching
        for limit in (1, 2):  # with a cursor at each boundary
            walked, cursor = [], ""
            while cursor is not None:
                page = world.call("GET", f"/events?{query}&order={order}&limit={limit}&cursor={cursor}")
                walked += ids(page)
                cursor = page.json["next_cursor"]
            assert walked == matching


def test_a_cursor_does_not_lead_out_of_a_range(world: World, posted: list[str], aws: Aws) -> None:
    for order, query, expected in (
        ("oldest", "since=2026-11-18T11:06:42Z", posted[3:]),
        ("newest", "until=2026-11-18T11:06:41.000001Z", posted[1::-1]),
        ("newest", "since=2026-11-18T11:06:43Z", []),
    ):
        cursor = world.call("GET", f"/events?order={order}&limit=1").json["next_cursor"]
        asked = len(aws.calls)
        assert ids(world.call("GET", f"/events?order={order}&{query}&cursor={cursor}")) == expected
        assert (len(aws.calls) > asked) == bool(expected)  # DynamoDB refuses a reversed range


def test_a_time_that_does_not_exist_is_refused(world: World) -> None:
    bad = ("", "yesterday", "2026-11-18", "2026-11-18T11:06:41", "2026-02-30T00:00:00Z", "0001-01-01T00:00:00%2B01:00")
    for name, value in itertools.product(("since", "until"), bad):
        answer = world.call("GET", f"/events?{name}={value}")
        assert (answer.status_code, answer.faults) == (400, [name])
    assert world.call("GET", "/inbox?since=2026-11-18T11:06:41Z&until=2026-11-18T11:06:41Z").faults == [
        "since",
        "until",
    ]


def test_a_listed_event_says_what_its_latest_attempt_said(world: World, receiver: Receiver) -> None:
    receiver.script(status(200), status(422), status(503))
    events = [world.post()["event_id"] for _ in range(3)]

    def last_errors() -> list[str | None]:
        listed = {event["event_id"]: event["last_error"] for event in world.call("GET", "/events").json["events"]}
        return [listed[event_id] for event_id in events]

    assert last_errors() == [None, "receiver responded 422", "receiver responded 503"]
    world.settle()
    assert last_errors() == [None, "receiver responded 422", None]
