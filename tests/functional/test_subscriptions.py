"""Subscriptions (REST hooks): made, listed, edited and tested."""

import json
from typing import Any

import pytest

from tests.conftest import Once
from tests.support.hooks import Hook
from tests.support.receiver import Receiver, certificates, hang
from tests.support.world import Json, World, assert_has

ZAPIER = "https://hooks.zapier.com/x"
HEADERS = {"Authorization": "Bearer s3cret-value", "x-other": "another s3cret"}
GIVEN = "whsec_s3cretsecrets3cretsecrets3cret24"
MEMBERS: Json = {
    "event_types": ["a"],
    "name": "CRM",
    "filter": {"price": [{"exists": False}, 1]},
    "headers": HEADERS,
    "tenant": "a",
}


@pytest.fixture
def crm(world: World, target: Receiver) -> Hook:
    """A subscription with all members that this file edits."""
    return Hook(world, target, secret=GIVEN, **MEMBERS)


# Making and listing


def test_a_subscription_is_created_once_listed_and_deleted(world: World, target: Receiver) -> None:
    types = ("order.created", "invoice.*")
    first, again = (world.subscribe(target, *types) for _ in range(2))
    world.sleep(1)
    others = [world.subscribe(target), world.subscribe(target, key="test-key")]

    assert [answer.status_code for answer in (first, again, *others)] == [201, 200, 201, 201]
    assert again.json == first.json
    assert_has(first.json, target_host="127.0.0.1", created_by="reader")
    assert [row["event_types"] for row in world.subscriptions()] == [[*types], None, None]
    for gone in (first.new_id, first.new_id, f"sub_{'0' * 32}"):
        assert world.call("DELETE", f"/subscriptions/{gone}").status_code == 204
    assert len(world.subscriptions()) == 2


ALLOWED = (
    "https://hooks.zapier.com/x",
    "https://HOOKS.zapier.com./x?y",
    "https://a.b.example.com/",
    "http://127.0.0.1:90/",
    "http://127.0.0.1/",
)
REFUSED: dict[str, tuple[Any, ...]] = {
    "must begin with https://": ("http://hooks.zapier.com/secret", "http://[::1]/secret", "", 1),
    "must be of a public host": (
        "https://10.0.0.1/secret",
        "https://example.com/secret",
        "https://evilexample.com/secret",
        "https://evilhooks.zapier.com/secret",
        "https://hooks.zapier.com.evil.com/secret",
    ),
    "must be an https URL": (
        "https://evil.com\\.example.com/secret",
        "https://hooks.zapier.com:443@evil.com/secret",
    ),
}


def test_a_target_is_on_an_allowed_host(world: World) -> None:
    world.restart(SUBSCRIPTION_HOSTS="hooks.zapier.com,.example.com,127.0.0.1")
    for url in ALLOWED:
        assert world.subscribe(url, "*").status_code == 201
    for expected, urls in REFUSED.items():
        for url in urls:
            answer = world.subscribe(url)
            assert answer.faults == ["target_url"]
            assert answer.json["detail"].startswith(f"target_url: {expected}")
            assert "secret" not in answer.text
    world.restart(SUBSCRIPTION_HOSTS="none")
    for url in (ZAPIER, "https://none/"):
        assert world.subscribe(url).status_code == 400


def test_of_any_hosts_only_public_ones_with_https_are_taken(world: World) -> None:
    world.restart(SUBSCRIPTION_HOSTS="*")
    for host in ("8.8.8.8:8443", "[2606:4700::1]", "a.example", "127.0.0.1.example"):
        assert world.subscribe(f"https://{host}/").status_code == 201
    private = "127.0.0.1 127.0.0.1. [::1] [fd00::1] [64:ff9b::a00:1] 127.1 0x7f.1 2130706433"
    for host in private.split():
        assert world.subscribe(f"https://{host}/").status_code == 400
    for host in ("a.example", "127.0.0.1", "localhost"):
        assert world.subscribe(f"http://{host}/").faults == ["target_url"]


def test_any_https_host_may_be_subscribed_but_only_public_addresses_are_pushed_to(
    world: World,
) -> None:
    world.restart(SUBSCRIPTION_HOSTS="*")
    with Receiver(tls=certificates().valid()) as private:
        hook = Hook(world, private)
        assert hook.now["target_host"] == "localhost"

        copy = hook.post()
        tried = hook.call("test").json

    copy.has(status="failed", last_error="address not allowed")
    assert_has(tried, outcome="failed", error="address not allowed", sent=None)
    assert private.connections == 0


def listed(world: World, query: str) -> list[str]:
    """Return the ids of the subscriptions of a list, which is read in pages of two."""
    ids = list[str]()
    cursor = ""
    while cursor is not None:
        page = world.get(f"/subscriptions?{query}&limit=2&cursor={cursor}")
        assert len(page["subscriptions"]) <= 2
        ids += [row["subscription_id"] for row in page["subscriptions"]]
        cursor = page["next_cursor"]
    return ids


def test_all_subscriptions_are_listed_by_state_and_page(world: World, target: Receiver) -> None:
    world.restart(SUBSCRIPTION_DISABLE_DAYS="0")
    quiet = ["other"]
    hooks = list[Hook]()
    for tenant, types in ((None, quiet), ("a", quiet), ("a", None), ("b", None), (None, quiet)):
        hooks.append(Hook(world, target, path=f"&{len(hooks)}", tenant=tenant, event_types=types))
        world.sleep(1)
    for hook in (hooks[2], hooks[3], hooks[3]):
        hook.post(422)
        world.sleep(1)

    ids = [hook.id for hook in hooks]
    for query, expected in {
        "tenant=*": ids,
        "tenant=a": ids[1:3],
        "": [ids[0], ids[4]],
        "tenant=*&state=active": [*ids[:2], ids[4]],
        "tenant=*&state=failing": [ids[2]],
        "tenant=a&state=disabled": [],
        "tenant=*&state=disabled": [ids[3]],
    }.items():
        assert listed(world, query) == expected, query
    for bad in ("state=enabled", "limit=0", "limit=101", "cursor=a", "order=newest"):
        assert world.call("GET", f"/subscriptions?{bad}").faults == [bad.partition("=")[0]]


def test_subscriptions_of_a_tenant_are_counted_apart(world: World, customer: Hook) -> None:
    text = json.dumps(world.item(customer.id))
    for number in range(99):
        item = json.loads(text.replace(customer.id, f"sub_{number:032}"))
        world.dynamodb.put_item(TableName=world.environ["EVENTS_TABLE_NAME"], Item=item)

    another = f"{customer.url}&another"
    assert world.subscribe(another, tenant="a").problem == (409, "too_many_subscriptions")
    assert customer.make().status_code == 200
    for tenant in (None, "b"):
        assert world.subscribe(another, tenant=tenant).status_code == 201
    world.call("DELETE", f"/subscriptions/sub_{0:032}")
    assert world.subscribe(another, tenant="a").status_code == 201


# Editing


NEW = {"name": "New", "event_types": ["b"], "filter": {"a": [1]}}
NOTHING = dict.fromkeys(NEW)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, {}),
        (NEW, NEW),
        ({**NOTHING, "headers": None}, {**NOTHING, "header_names": []}),
        ({"headers": {"X-New": "1"}}, {"header_names": ["X-New"]}),
        ({"target_url": ZAPIER}, {"target_host": "hooks.zapier.com", "header_names": []}),
        (
            {"target_url": ZAPIER, "headers": {"X-New": "1"}},
            {"target_host": "hooks.zapier.com", "header_names": ["X-New"]},
        ),
    ],
)
def test_a_patch_is_partial(world: World, crm: Hook, changes: Json, expected: Json) -> None:
    world.restart(SUBSCRIPTION_DISABLE_DAYS="0")
    for _ in range(2):
        crm.post(422)
        world.sleep(1)
    before = crm.now
    secret = crm.secret
    assert before["failing_since"] < before["disabled_at"]

    edited = crm.edit(**changes)

    assert edited.status_code == 200
    assert crm.now == edited.json == {**before, **expected}
    assert crm.secret == secret


FAULTS: list[tuple[Json, str]] = [
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
]


def test_a_fault_is_named_in_either_call(world: World, hook: Hook) -> None:
    before = hook.now
    for members, named in FAULTS:
        made = world.call("POST", "/subscriptions", {"target_url": hook.url, **members})
        for answer in (made, hook.edit(**members)):
            assert answer.faults == [*members]
            assert named in answer.json["detail"]
            assert "s3cret" not in answer.text
    for faulty in ["tenant"], ["secret", "target_url"]:
        assert hook.edit(**dict.fromkeys(faulty)).faults == faulty
    assert world.subscriptions() == [before]


# Making again


@pytest.mark.parametrize(
    "given, name",
    [
        ({}, "CRM"),
        ({"name": "New", "filter": None, "secret": None}, "New"),
        ({"name": None, "headers": dict(reversed(HEADERS.items())), "secret": GIVEN}, "CRM"),
        ({"filter": {"price": [{"exists": False}, 1.0]}}, "CRM"),
    ],
)
def test_a_subscription_that_is_made_again_is_enabled_and_renamed(
    world: World, crm: Hook, given: Json, name: str
) -> None:
    secret = crm.call("secret").json["secret"]  # GIVEN signs for a day
    crm.post(410)
    before = crm.now
    assert before["state"] == "disabled"

    again = world.subscribe(crm.url, **{**MEMBERS, **given})

    enabled = {"state": "active", "disabled_at": None, "last_error": None}
    assert again.status_code == 200
    assert again.json == {**before, **enabled, "name": name, "secret": secret}


def test_a_subscription_that_would_differ_is_not_made_again(world: World, crm: Hook) -> None:
    crm.post(410)
    before = crm.now
    different: list[tuple[list[str], Json]] = [
        (["filter"], {"filter": {"price": [{"exists": False}, 1.5]}}),
        (["filter"], {"filter": {"price": [{"exists": False}, True]}}),
        (["headers"], {"headers": {**HEADERS, "x-other": "s3cret"}, "name": "New"}),
        (["body", "header_prefix"], {"header_prefix": "svix", "body": "payload"}),
        (["secret"], {"secret": GIVEN.upper().replace("WHSEC", "whsec")}),
    ]
    for differs, given in different:
        again = world.subscribe(crm.url, **{**MEMBERS, **given})

        assert again.problem == (409, "subscription_exists")
        assert (again.json["subscription_id"], sorted(again.json["differs"])) == (crm.id, differs)
        assert "s3cret" not in again.text
    assert crm.now == before


def test_a_subscription_that_is_made_again_after_an_edit_is_another_one(
    world: World, crm: Hook
) -> None:
    edited = crm.path
    for changes in ({"event_types": None}, {"target_url": ZAPIER}, {"target_url": ZAPIER}):
        crm.edit(**changes)
        world.sleep(1)
        made, again = crm.make(), crm.make()
        assert (made.status_code, again.status_code, again.json) == (201, 200, made.json)
    hosts = [row["target_host"] for row in world.subscriptions("a")]
    assert hosts == ["127.0.0.1", "hooks.zapier.com", "hooks.zapier.com", "127.0.0.1"]
    # The id that a first subscription of this URL would have is free then.
    world.call("DELETE", edited)
    assert crm.make().json == made.json


def test_a_subscription_that_was_deleted_a_moment_ago_is_in_nobodys_way(
    world: World, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    lagging = world.services.subscriptions.of_tenant(None)
    hook.delete()
    # An index that lags: moto has none.
    monkeypatch.setattr(world.services.subscriptions, "of_tenant", lambda _: lagging)

    assert world.subscribe(hook.target, filter={"total": [2]}).status_code == 201


def test_of_two_that_were_made_alike_the_one_that_is_described_is_made_again(
    world: World, target: Receiver
) -> None:
    hooks = []
    for total in (1, 2, 3):
        hooks.append(Hook(world, target, path=f"&{total}", filter={"total": [total]}))
        world.sleep(1)
    for hook in hooks:
        hook.edit(target_url=target.url)

    for total, answer in (3, (200, hooks[2].id)), (4, (409, hooks[0].id)):
        again = world.subscribe(target, filter={"total": [total]})
        assert (again.status_code, again.json["subscription_id"]) == answer


# Editing at once


def edit_during(once: Once, hook: Hook, **changes: Any) -> None:
    """Let another call edit a subscription between the read and the write of the next edit."""

    def edit_meanwhile() -> None:
        assert hook.edit(**changes).status_code == 200

    once(hook.world.dynamodb, "before-call.dynamodb.UpdateItem", edit_meanwhile)


@pytest.mark.parametrize(
    "meanwhile, shown",
    [
        ({"name": "New"}, {"name": "New"}),
        ({"target_url": ZAPIER, "headers": HEADERS}, {"target_host": "hooks.zapier.com"}),
    ],
)
def test_an_edit_keeps_what_another_one_changed_meanwhile(
    crm: Hook, once: Once, meanwhile: Json, shown: Json
) -> None:
    before = crm.now
    edit_during(once, crm, **meanwhile)

    edited = crm.edit(filter=None)

    assert crm.now == edited.json == {**before, **shown, "filter": None}


def test_an_edit_of_a_subscription_that_was_made_anew_meanwhile_is_one_of_the_new(
    world: World, crm: Hook, once: Once
) -> None:
    before = crm.now
    once(world.dynamodb, "before-call.dynamodb.UpdateItem", crm.recreate)

    edited = crm.edit(name="New")

    assert edited.json == crm.now
    assert_has(crm.now, subscription_id=before["subscription_id"], name="New")
    assert crm.now["created_at"] > before["created_at"]


def test_of_two_edits_at_once_neither_sends_headers_to_another_url(crm: Hook, once: Once) -> None:
    # Headers stay while the URL stays.
    assert crm.edit(target_url=crm.url).json["header_names"] == [*HEADERS]
    edit_during(once, crm, target_url=ZAPIER)
    assert crm.edit(headers=HEADERS).problem == (409, "edited_meanwhile")
    assert_has(crm.now, target_host="hooks.zapier.com", header_names=[])
    edit_during(once, crm, target_url=f"{ZAPIER}/new")
    edited = crm.edit(headers=HEADERS, target_url=crm.url).json
    assert_has(edited, target_host="127.0.0.1", header_names=[*HEADERS])
    edit_during(once, crm, headers={"X-New": "1"})
    edited = crm.edit(target_url=ZAPIER).json
    assert_has(edited, target_host="hooks.zapier.com", header_names=[])


# Testing


def test_a_test_tells_what_was_sent(world: World, target: Receiver) -> None:
    headers = {"webhook-key": "a-secret"}
    hook = Hook(world, target, headers=headers, header_prefix="svix")

    sent = hook.call("test").json["sent"]
    world.restart(SUBSCRIPTION_HOSTS="hooks.zapier.com")
    refused = hook.call("test").json

    [push] = target.requests
    # all but what a client of HTTP adds, and what the subscription has of its own
    others = {"host", "content-length", "accept-encoding", *headers}
    own = {name: value for name, value in push.headers.items() if name not in others}
    assert {name.lower(): value for name, value in sent["headers"].items()} == own
    assert {"svix-signature", "webhook-event-type"} < own.keys()
    assert sent["body"] == push.body.decode()
    assert_has(refused, sent=None, error="host not allowed")


FILTER: Json = {"order": {"total": [{"numeric": [">=", 100]}]}}


def test_a_test_with_a_payload_tells_whether_a_copy_would_be_made(
    world: World, target: Receiver
) -> None:
    hook = Hook(world, target, event_types=["order.*"], tenant="a", filter=FILTER)
    for event_type, total, reason, member in (
        ("order.created", 120, None, None),
        ("order.created", 80, "filter", "order.total"),
        ("invoice.paid", 120, "event_types", None),
    ):
        event = {"event_type": event_type, "payload": {"order": {"total": total}}}
        tested = hook.call("test", event).json
        assert_has(tested, outcome="delivered", matches=not reason, reason=reason, member=member)
        assert_has(target.requests[-1].json(), **event, metadata=None, tenant="a")
    assert world.listed("/events") == []


def test_a_filter_is_tried_without_a_subscription(world: World) -> None:
    token = world.make_token("b")
    for total, matches, member in ((120, True, None), (80, False, "order.total")):
        body = {"filter": FILTER, "payload": {"order": {"total": total}}}
        tried = world.call("POST", "/filters/test", body, key=token).json
        assert tried == {"matches": matches, "member": member}


def test_a_test_takes_the_time_of_a_push_and_no_reserved_type(world: World, hook: Hook) -> None:
    world.restart(INLINE_PUSH_TIMEOUT_SECONDS="0.1", PUSH_TIMEOUT_SECONDS="0.3")
    hook.target.script(hang)

    slow = hook.call("test").json

    assert slow["error"] == "timed out"
    assert slow["duration_ms"] >= 250
    reserved = {"event_type": "triggers.event.failed", "payload": {}}
    assert hook.call("test", reserved).faults == ["event_type"]
