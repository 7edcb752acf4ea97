"""What a subscription has beside its URL and types: edits, a filter, headers, a secret, and its
last error.
"""

from bisect import bisect_left
from dataclasses import replace
from typing import Any

import pytest

from chalicelib import deps as services
from chalicelib.infra.errors import ApiError, InvalidRequestError
from chalicelib.infra.times import rfc3339
from tests.conftest import Output
from tests.support.aws_calls import Aws
from tests.support.receiver import Exchange, Receiver, status
from tests.support.subscribing import (
    copies,
    post_for,
    secret_of,
    states,
    subscribe,
    subscribed,
    subscriptions,
)
from tests.support.world import START, Answer, Json, World, assert_has

GIVEN = "whsec_s3cretsecrets3cretsecrets3cret24"
HEADERS = {"Authorization": "Bearer s3cret-value", "x-other": "another s3cret"}
FILTER = {"price": [{"suffix": "€"}]}
MEMBERS: Json = {
    "event_types": ["order.*"],
    "name": "CRM",
    "filter": FILTER,
    "headers": HEADERS,
}
ZAPIER = "https://hooks.zapier.com/x"


def patch(world: World, path: str, **changes: Any) -> Answer:
    return world.call("PATCH", path, changes)


# Edits


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, {}),
        ({"name": "New", "event_types": ["a"]}, {"name": "New", "event_types": ["a"]}),
        (
            {"headers": {"X-New": "1"}, "filter": {"a": [1]}},
            {"header_names": ["X-New"], "filter": {"a": [1]}},
        ),
        ({"target_url": ZAPIER}, {"target_host": "hooks.zapier.com", "header_names": []}),
        (
            {"target_url": ZAPIER, "headers": {"X-New": "1"}},
            {"target_host": "hooks.zapier.com", "header_names": ["X-New"]},
        ),
        (
            dict.fromkeys(MEMBERS),
            {"event_types": None, "name": None, "filter": None, "header_names": []},
        ),
    ],
)
def test_a_patch_is_partial(world: World, target: Receiver, changes: Json, expected: Json) -> None:
    world.restart(SUBSCRIPTION_DISABLE_DAYS="0")
    path = subscribed(world, target, tenant="a", **MEMBERS)
    target.default = 422
    for _ in range(2):
        post_for(world, "a")
        world.sleep(1)
    before = world.get(path)
    before_secret = secret_of(world, path)
    assert before["failing_since"] < before["disabled_at"]

    edited = patch(world, path, **changes)

    assert edited.status_code == 200
    assert edited.json == {**before, **expected}
    assert world.get(path) == edited.json
    assert secret_of(world, path) == before_secret


@pytest.mark.parametrize(
    "members, named",
    [
        ({"target_url": "https://elsewhere.example/s3cret"}, "hooks.zapier.com"),
        ({"event_types": []}, ""),
        ({"event_types": ["a", "*a"]}, ""),
        ({"event_types": "a"}, ""),
        ({"url": 1}, "target_url"),
        ({"name": ""}, ""),
        ({"filter": {"order": {"total": [[]]}}}, "order.total"),
        ({"headers": {"HOST": "s3cret"}}, "HOST"),
        ({"headers": {"x-a": "s3cret\n"}}, "x-a"),
        ({"secret": "whsec_s3cret"}, ""),
        ({"body": "envelope"}, "payload"),
        ({"header_prefix": "webhook"}, "svix"),
    ],
)
def test_a_fault_is_named_in_either_call(
    world: World, target: Receiver, members: Json, named: str
) -> None:
    path = subscribed(world, target)
    before = world.get(path)
    made = world.call("POST", "/subscriptions", {"target_url": target.url, **members})
    for answer in (made, patch(world, path, **members)):
        assert answer.faults == [*members]
        assert named in answer.json["detail"]
        assert "s3cret" not in answer.text
    faults: Json = {"name": "", "target_url": None}
    for faulty in ({"tenant": "a"}, {**faults, "secret": None}):
        assert patch(world, path, **faulty).faults == sorted(faulty)
    assert [world.get(path)] == [before] == subscriptions(world)


@pytest.mark.parametrize(
    "given, differs",
    [
        ({}, []),
        ({"name": "New", "filter": None, "secret": None}, []),
        ({"name": None, "headers": dict(reversed(HEADERS.items())), "secret": GIVEN}, []),
        ({"filter": {"price": [{"suffix": "€"}, True]}}, ["filter"]),
        ({"name": "New", "headers": {**HEADERS, "x-other": "s3cret"}}, ["headers"]),
        ({"header_prefix": "svix", "body": "payload"}, ["body", "header_prefix"]),
        ({"secret": GIVEN.upper().replace("WHSEC", "whsec")}, ["secret"]),
    ],
)
def test_a_subscription_that_is_made_again_is_renamed_and_enabled_or_refused_where_it_differs(
    world: World, target: Receiver, given: Json, differs: list[str]
) -> None:
    members = {**MEMBERS, "filter": {"price": [{"suffix": "€"}, 1]}, "tenant": "a"}
    path = subscribed(world, target, secret=GIVEN, **members)
    secret = world.call("POST", f"{path}/secret", "{}").json["secret"]  # GIVEN signs for a day
    target.script(410)
    post_for(world, "a")
    before = world.get(path)
    assert before["disabled_at"]

    again = subscribe(world, target, **{**members, **given})

    if differs:
        assert again.problem == (409, "subscription_exists")
        assert_has(again.json, subscription_id=before["subscription_id"])
        assert sorted(again.json["differs"]) == differs
        assert "s3cret" not in again.text
        assert world.get(path) == before
    else:
        enabled = {"state": "active", "disabled_at": None, "last_error": None, "secret": secret}
        named = {"name": given.get("name") or "CRM"}
        assert (again.status_code, again.json) == (200, {**before, **enabled, **named})


def test_a_subscription_that_is_made_again_after_an_edit_is_another_one(
    world: World, target: Receiver
) -> None:
    path = subscribed(world, target, **MEMBERS)
    for changes in ({"event_types": None}, {"target_url": ZAPIER}, {"target_url": ZAPIER}):
        patch(world, path, **changes)
        world.sleep(1)
        made, again = (subscribe(world, target, **MEMBERS) for _ in range(2))
        assert (made.status_code, again.status_code, again.json) == (201, 200, made.json)
        path = f"/{made.headers['location']}"
    hosts = [row["target_host"] for row in subscriptions(world)]
    assert hosts == ["127.0.0.1", "hooks.zapier.com", "hooks.zapier.com", "127.0.0.1"]


def test_a_subscription_is_found_though_the_edited_one_was_deleted(
    world: World, target: Receiver
) -> None:
    path = subscribed(world, target)
    patch(world, path, target_url=ZAPIER)
    other = subscribe(world, target)
    world.call("DELETE", path)
    again = subscribe(world, target)
    assert (other.status_code, again.status_code, again.json) == (201, 200, other.json)


@pytest.mark.parametrize("meanwhile", [{"name": "New"}, {"target_url": ZAPIER, "headers": HEADERS}])
def test_an_edit_keeps_what_another_one_changed_meanwhile(
    world: World, target: Receiver, meanwhile: Json
) -> None:
    path = subscribed(world, target, **MEMBERS)
    [seen] = world.services.subscriptions.of_tenant(None)
    patch(world, path, **meanwhile)

    edited = world.services.subscriptions.describe(seen, filter=None)

    assert edited
    [stored] = world.services.subscriptions.of_tenant(None)
    expected = replace(seen, **meanwhile, filter=None)
    for subscription in (edited, stored):
        assert replace(subscription, described=seen.described) == expected


def test_an_edit_of_a_subscription_that_was_made_anew_meanwhile_is_one_of_the_new(
    world: World, target: Receiver
) -> None:
    path = subscribed(world, target, secret=GIVEN)
    [seen] = world.services.subscriptions.of_tenant(None)
    world.call("DELETE", path)
    world.sleep(1)
    assert subscribed(world, target, secret=GIVEN) == path

    edited = world.services.subscriptions.describe(seen, name="New")

    assert edited
    [stored] = world.services.subscriptions.of_tenant(None)
    assert edited.name == "New"
    assert edited.created_at == stored.created_at
    assert edited.created_at != seen.created_at


def test_headers_stay_while_the_url_stays(world: World, target: Receiver) -> None:
    path = subscribed(world, target, **MEMBERS)
    assert patch(world, path, target_url=target.url, name="New").json["header_names"] == [*HEADERS]


def test_of_two_edits_at_once_neither_sends_headers_to_another_url(
    world: World, target: Receiver
) -> None:
    path = subscribed(world, target, **MEMBERS)
    edit = world.services.subscriptions.describe
    seen = world.services.subscriptions.get(path.rpartition("/")[2])
    assert seen
    patch(world, path, target_url=ZAPIER)
    before = world.get(path)

    with pytest.raises(ApiError) as refused:
        edit(seen, headers=HEADERS)

    assert refused.value.status_code == 409
    assert refused.value.code == "edited_meanwhile"
    assert world.get(path) == before
    edited = edit(seen, headers=HEADERS, target_url=target.url)
    assert edited
    assert world.get(path)["header_names"] == [*HEADERS]
    edit(edited, headers={"X-New": "1"})
    edit(edited, target_url=ZAPIER)
    assert world.get(path) == before


# Filters


def test_a_filter_decides_about_copies_of_events(
    world: World, receiver: Receiver, target: Receiver, aws: Aws
) -> None:
    path = subscribed(world, target, event_types=["order.*", "triggers.*"], filter=FILTER)
    assert aws.during(lambda: world.post({"price": "12 $"})).count("PutItem") == 1
    assert len(world.post({"price": "12 €"})["copies"]) == 1
    receiver.default = 422
    assert world.post()["copies"] == []
    world.call("POST", f"{path}/test")
    world.empty_inbox()

    pushed = [request.json()["event_type"] for request in target.requests]
    assert pushed == ["order.created", "test", "triggers.event.failed"]


def test_a_payload_that_is_nested_deep_is_filtered_or_refused(
    world: World, target: Receiver
) -> None:
    def post(levels: int) -> int:
        payload = '{"price":' * levels + "1" + "}" * levels
        return world.offer(f'{{"event_type": "a", "payload": {payload}}}').status_code

    refused = bisect_left(range(1, 20_000), 400, key=post) + 1
    subscribed(world, target, filter={"price": {"price": FILTER}})
    assert {post(levels) for levels in range(refused - 60, refused + 60)} == {202, 400}
    stored = world.services.store.get(world.post()["event_id"])
    assert stored
    deeper = replace(stored, payload='{"price":' * 20_000 + "1" + "}" * 20_000)
    with pytest.raises(InvalidRequestError):  # whatever Python's parser took before
        world.services.subscriptions.matching(deeper)


# Headers and secrets


def test_headers_and_a_given_secret_are_on_or_sign_every_push_and_are_nowhere_else(
    world: World, target: Receiver, listener: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    def echo(exchange: Exchange) -> None:
        status(503, body=str(exchange.request.headers).encode())(exchange)

    target.default = echo
    world.restart(LOG_LEVEL="DEBUG", MAX_DELIVERY_ATTEMPTS="2", SUBSCRIPTION_DISABLE_DAYS="0")
    subscribe(world, listener, "triggers.*")
    made = subscribe(world, target, "order.*", headers=HEADERS, secret=GIVEN)
    path = made.location
    events = [world.post()]
    world.settle()
    world.restart(WEBHOOK_SIGNING_SECRETS="")
    events.append(world.post())
    world.settle()
    calls = [
        ("GET", path),
        ("PATCH", path),
        ("GET", "/subscriptions"),
        *(("POST", f"{path}/{verb}") for verb in ("test", "enable")),
    ]
    answers = [
        made,
        *(world.call(*call, "{}") for call in calls),
        *(world.call("GET", f"/events/{event['copies'][0]}") for event in events),
    ]

    assert target.count == 5
    sent = {name.lower(): value for name, value in HEADERS.items()}
    assert all(sent.items() <= request.headers.items() for request in target.requests)
    reports = [request.body.decode() for request in listener.requests]
    assert len(reports) > 2
    told = [answer.text for answer in answers[1:]] + reports
    told += map(repr, world.services.subscriptions.of_tenant(None))
    assert "s3cret" not in str([told, *capfd.readouterr(), world.dead_letters()])
    assert [answer.json["header_names"] for answer in answers[:3]] == [[*HEADERS]] * 3


# What went wrong


def test_410_disables_the_subscription_of_a_tenant(
    world: World, target: Receiver, output: Output
) -> None:
    path = subscribed(world, target, tenant="a")
    target.script(410)
    output.lines()
    [copy] = copies(world, post_for(world, "a"))
    lines = output.lines()
    disabled = world.get(path)

    assert_has(copy, status="failed", last_error="receiver responded 410")
    assert "its subscription was disabled" in copy["message"]
    [warning] = [line for line in lines if line["level"] == "WARNING"]
    assert_has(warning, message="subscription disabled", SubscriptionsDisabled=1)
    assert not any("CopyFailure" in line for line in lines)
    assert world.dead_letters() == []
    at = copy["attempts"][0]["at"]
    assert_has(disabled, disabled_at=at, failing_since=None, last_error="receiver responded 410")
    enabled = {**disabled, "state": "active", "disabled_at": None, "last_error": None}
    assert world.call("POST", f"{path}/enable").json == enabled
    assert world.replay(copy["event_id"]).status_code == 202


def test_of_two_410s_at_once_one_disables_the_subscription(
    world: World, target: Receiver, output: Output
) -> None:
    path = subscribed(world, target, tenant="a")
    events = []

    def disable_meanwhile(exchange: Exchange) -> None:
        services.use(replace(world.services))
        events.append(post_for(world, "a"))
        world.sleep(1)
        services.use(world.services)
        status(410)(exchange)

    target.script(disable_meanwhile, 410)
    events.append(post_for(world, "a"))
    world.settle()

    assert [states(world, event) for event in events] == [["failed"]] * 2
    assert target.count == 2
    assert world.dead_letters() == []
    assert world.get(path)["disabled_at"]
    assert len(output.lines(message="subscription disabled")) == 1


@pytest.mark.parametrize("tenant", [None, "a"])
def test_410_if_edited_meanwhile_is_ignored(
    world: World, target: Receiver, listener: Receiver, tenant: str | None
) -> None:
    path = subscribed(world, target, tenant=tenant)

    def edit(exchange: Exchange) -> None:
        patch(world, path, target_url=listener.url)
        status(410)(exchange)

    target.script(edit)
    event = post_for(world, tenant)
    [pending] = copies(world, event)
    before = world.get(path)
    world.settle()

    assert pending["next_attempt_at"] == rfc3339(START + 1)
    assert states(world, event) == ["delivered"]
    assert world.get(path) == before
    assert before["disabled_at"] is None
    assert target.count == 1
    assert listener.count == 1


def test_the_last_error_is_that_of_the_latest_push_that_was_made(
    world: World, target: Receiver
) -> None:
    path = subscribed(world, target)
    subscriptions = world.services.subscriptions
    told = []
    for code in (422, 200, 415):
        target.script(code)
        world.post()
        told.append(world.get(path)["last_error"])
    [failing] = subscriptions.of_tenant(None)
    world.sleep(3 * 86_400)
    assert subscriptions.disable(
        failing, None, "attribute_exists(failing_since)"
    )  # of the copy, no attempt that was made is known any more

    assert told == ["receiver responded 422", None, "receiver responded 415"]
    assert world.get(path)["last_error"] == "receiver responded 415"
