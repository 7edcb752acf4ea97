"""Subjects: what events are about, and what they are found again by."""

from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.receiver import Receiver
from tests.support.subscribing import copies, id_of_new, ids, post_later, subscribe
from tests.support.world import Answer, World


def find(world: World, **query: str) -> Answer:
    return world.call("GET", f"/events?{urlencode(query)}")


def test_an_event_its_copies_and_pushes_have_the_subject(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    subscribe(world, target)
    for subject in ("Größe 4", None):
        event = post_later(world, subject=subject)
        whole = [world.event(event["event_id"]), *copies(world, event)]
        assert [shown["subject"] for shown in (event, *whole)] == [subject] * 3
        for pushed in (receiver.requests.pop().json(), target.requests.pop().json()):
            assert ("subject" in pushed) == (subject is not None)
            assert pushed.get("subject") == subject


def test_events_and_copies_are_found_by_their_exact_subject(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    subscription_id = id_of_new(world, target)
    receiver.default = 503
    subjects = ("order-1", "order-11", "order-*", "*", "order-1")
    events = [post_later(world, subject=subject) for subject in subjects]

    for subject in subjects:
        about = [event for event in reversed(events) if event["subject"] == subject]
        found = find(world, subject=subject)
        assert ids(found) == [event["event_id"] for event in about]
        assert {event["last_error"] for event in found.json["events"]} == {"receiver responded 503"}
        of_subscription = find(world, subject=subject, subscription_id=subscription_id)
        assert ids(of_subscription) == [copy_id for event in about for copy_id in event["copies"]]
    first = events[0]["event_id"]
    world.acknowledge(first)
    assert ids(find(world, subject="order-1", status="delivered")) == [first]
    assert ids(find(world, subject="order-1", order="oldest", limit="1")) == [first]


def test_lists_leave_subjects_out_unless_asked_for_them(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    receiver.default = 422
    subscription_id = id_of_new(world, target)
    post_later(world, subject="order-1", tenant="a")

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
