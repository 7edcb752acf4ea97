"""Subscriptions (REST hooks): made, listed, edited and tested."""

import json
from dataclasses import replace
from typing import Any

import pytest

from chalicelib.infra.errors import ApiError
from tests.support.hooks import Hook
from tests.support.receiver import Receiver, certificates, hang
from tests.support.world import Json, World, assert_has

# Making and listing


def test_a_subscription_is_created_once_listed_and_deleted(world: World, target: Receiver) -> None:
    types = ("order.created", "invoice.*")
    first, again = (world.subscribe(target, *types) for _ in range(2))
    world.sleep(1)
    others = [world.subscribe(target), world.subscribe(target, key="test-key")]

    assert [answer.status_code for answer in (first, again, *others)] == [201, 200, 201, 201]
    assert again.json == first.json
    assert first.headers["location"] == f"subscriptions/{first.json['subscription_id']}"
    assert_has(first.json, target_host="127.0.0.1", created_by="reader")
    assert [row["event_types"] for row in world.subscriptions()] == [[*types], None, None]
    for path in (first.location, first.location, f"/subscriptions/sub_{'0' * 32}"):
        assert world.call("DELETE", path).status_code == 204
    assert len(world.subscriptions()) == 2


HOSTS = "hooks.zapier.com,.example.com,127.0.0.1"

URLS = (
    "https://hooks.zapier.com/x",
    "https://HOOKS.zapier.com./x?y",
    "https://a.b.example.com/",
    "http://127.0.0.1:90/",
    "http://127.0.0.1/",
)

BAD_URLS: tuple[Any, ...] = (
    "http://hooks.zapier.com/secret",
    "https://10.0.0.1/secret",
    "https://example.com/secret",
    "http://[::1]/secret",
    "https://evilexample.com/secret",
    "https://evilhooks.zapier.com/secret",
    "https://evil.com\\.example.com/",
    "https://hooks.zapier.com.evil.com/secret",
    "https://hooks.zapier.com:443@evil.com/secret",
    "",
    1,
)


def test_a_target_is_on_an_allowed_host(world: World) -> None:
    world.restart(SUBSCRIPTION_HOSTS=HOSTS)
    for url in URLS:
        assert world.subscribe(url, "*").status_code == 201
    for bad in BAD_URLS:
        answer = world.subscribe(bad)
        assert answer.faults == ["target_url"]
        assert "secret" not in answer.text
        allowed = (
            HOSTS.split(",") if str(bad).startswith("https:") else ["must begin with https://"]
        )
        detail = answer.json["detail"]
        assert all(text in detail for text in allowed)
        assert len(detail) < 50 or len(allowed) > 1
    refused = world.subscribe("https://evil.example/secret").json["detail"]
    assert refused.startswith("target_url: must be of a public host")
    world.restart(SUBSCRIPTION_HOSTS="none")
    assert [world.subscribe(url).status_code for url in (URLS[0], "https://none/")] == [400, 400]


def test_all_subscriptions_are_listed_by_state_and_page(world: World, target: Receiver) -> None:
    world.restart(SUBSCRIPTION_DISABLE_DAYS="0")
    made = []
    for number, tenant in enumerate((None, "a", "a", "b", None)):
        url = f"{target.url}&{number}"
        made.append(world.subscribe(url, f"t-{number}", tenant=tenant).location[-36:])
        world.sleep(1)
    target.default = 422
    for number, tenant in ((2, "a"), (3, "b"), (3, "b")):
        world.offer({"event_type": f"t-{number}", "payload": {}, "tenant": tenant})
        world.sleep(1)

    for query, expected in {
        "tenant=*": made,
        "tenant=a": made[1:3],
        "": [made[0], made[4]],
        "tenant=*&state=active": [*made[:2], made[4]],
        "tenant=*&state=failing": [made[2]],
        "tenant=a&state=disabled": [],
        "tenant=*&state=disabled": [made[3]],
    }.items():
        for limit in (1, 2, 100):
            found = []
            cursor = ""
            while cursor is not None:
                page = world.get(f"/subscriptions?{query}&limit={limit}&cursor={cursor}")
                assert len(page["subscriptions"]) <= limit
                found += [row["subscription_id"] for row in page["subscriptions"]]
                cursor = page["next_cursor"]
            assert found == expected
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


def test_of_any_hosts_only_public_ones_with_https_are_taken(world: World) -> None:
    world.restart(SUBSCRIPTION_HOSTS="*")
    for host in ("8.8.8.8:8443", "[2606:4700::1]", "a.example", "127.0.0.1.example"):
        assert world.subscribe(f"https://{host}/").status_code == 201
    private = "127.0.0.1 127.0.0.1. [::1] [fd00::1] [64:ff9b::a00:1] 127.1 0x7f.1 2130706433"
    for host in private.split():
        assert world.subscribe(f"https://{host}/").status_code == 400
    for host in ("a.example", "127.0.0.1", "localhost"):
        assert world.subscribe(f"http://{host}/").faults == ["target_url"]


# Editing

HEADERS = {"Authorization": "Bearer s3cret-value", "x-other": "another s3cret"}

MEMBERS: Json = {
    "event_types": ["a"],
    "name": "CRM",
    "filter": {"price": [{"exists": False}]},
    "headers": HEADERS,
}

ZAPIER = "https://hooks.zapier.com/x"


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, {}),
        ({"name": "New", "event_types": ["b"]}, {"name": "New", "event_types": ["b"]}),
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
    hook = Hook(world, target, tenant="a", **MEMBERS)
    for _ in range(2):
        hook.post(422)
        world.sleep(1)
    before = hook.now
    secret = hook.secret
    assert before["failing_since"] < before["disabled_at"]

    edited = hook.edit(**changes)

    assert edited.status_code == 200
    assert hook.now == edited.json == {**before, **expected}
    assert hook.secret == secret


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
    hook = Hook(world, target)
    before = hook.now
    made = world.call("POST", "/subscriptions", {"target_url": target.url, **members})
    for answer in (made, hook.edit(**members)):
        assert answer.faults == [*members]
        assert named in answer.json["detail"]
        assert "s3cret" not in answer.text
    for faulty in ["tenant"], ["secret", "target_url"]:
        assert hook.edit(**dict.fromkeys(faulty)).faults == faulty
    assert hook.now == before
    assert len(world.subscriptions()) == 1


GIVEN = "whsec_s3cretsecrets3cretsecrets3cret24"


@pytest.mark.parametrize(
    "given, differs",
    [
        ({}, []),
        ({"name": "New", "filter": None, "secret": None}, []),
        ({"name": None, "headers": dict(reversed(HEADERS.items())), "secret": GIVEN}, []),
        ({"filter": {"price": [{"exists": False}, 1.0]}}, []),
        ({"filter": {"price": [{"exists": False}, 1.5]}}, ["filter"]),
        ({"filter": {"price": [{"exists": False}, True]}}, ["filter"]),
        ({"name": "New", "headers": {**HEADERS, "x-other": "s3cret"}}, ["headers"]),
        ({"header_prefix": "svix", "body": "payload"}, ["body", "header_prefix"]),
        ({"secret": GIVEN.upper().replace("WHSEC", "whsec")}, ["secret"]),
    ],
)
def test_a_subscription_made_again_is_renamed_and_enabled_or_refused_if_it_differs(
    world: World, target: Receiver, given: Json, differs: list[str]
) -> None:
    members = {**MEMBERS, "filter": {"price": [{"exists": False}, 1]}, "tenant": "a"}
    hook = Hook(world, target, secret=GIVEN, **members)
    secret = hook.call("secret").json["secret"]  # GIVEN signs for a day
    hook.post(410)
    before = hook.now
    assert before["disabled_at"]

    again = world.subscribe(target, **{**members, **given})

    if differs:
        assert again.problem == (409, "subscription_exists")
        assert_has(again.json, subscription_id=hook.id)
        assert sorted(again.json["differs"]) == differs
        assert "s3cret" not in again.text
        assert hook.now == before
    else:
        enabled = {"state": "active", "disabled_at": None, "last_error": None, "secret": secret}
        named = {"name": given.get("name") or "CRM"}
        assert (again.status_code, again.json) == (200, {**before, **enabled, **named})


def test_a_subscription_that_is_made_again_after_an_edit_is_another_one(
    world: World, target: Receiver
) -> None:
    hook = Hook(world, target, **MEMBERS)
    for changes in ({"event_types": None}, {"target_url": ZAPIER}, {"target_url": ZAPIER}):
        hook.edit(**changes)
        world.sleep(1)
        made, again = hook.make(), hook.make()
        assert (made.status_code, again.status_code, again.json) == (201, 200, made.json)
    hosts = [row["target_host"] for row in world.subscriptions()]
    assert hosts == ["127.0.0.1", "hooks.zapier.com", "hooks.zapier.com", "127.0.0.1"]


def test_a_subscription_is_found_though_the_edited_one_was_deleted(hook: Hook) -> None:
    hook.edit(target_url=ZAPIER)
    edited = hook.path
    other = hook.make()
    hook.world.call("DELETE", edited)
    again = hook.make()
    assert (other.status_code, again.status_code, again.json) == (201, 200, other.json)


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


@pytest.mark.parametrize("meanwhile", [{"name": "New"}, {"target_url": ZAPIER, "headers": HEADERS}])
def test_an_edit_keeps_what_another_one_changed_meanwhile(
    world: World, target: Receiver, meanwhile: Json
) -> None:
    hook = Hook(world, target, **MEMBERS)
    [seen] = world.services.subscriptions.of_tenant(None)
    hook.edit(**meanwhile)

    edited = world.services.subscriptions.edit(seen, {"filter": None})

    assert edited
    [stored] = world.services.subscriptions.of_tenant(None)
    expected = replace(seen, **meanwhile, filter=None)
    for subscription in (edited, stored):
        assert replace(subscription, described=seen.described) == expected


def test_an_edit_of_a_subscription_that_was_made_anew_meanwhile_is_one_of_the_new(
    world: World, target: Receiver
) -> None:
    hook = Hook(world, target, secret=GIVEN)
    [seen] = world.services.subscriptions.of_tenant(None)
    hook.recreate()
    assert hook.id == seen.subscription_id

    edited = world.services.subscriptions.edit(seen, {"name": "New"})

    assert edited
    assert edited.name == hook.now["name"] == "New"
    assert edited.created_at == hook.now["created_at"] != seen.created_at


def test_of_two_edits_at_once_neither_sends_headers_to_another_url(
    world: World, target: Receiver
) -> None:
    hook = Hook(world, target, **MEMBERS)
    # headers stay while the URL stays
    assert hook.edit(target_url=target.url).json["header_names"] == [*HEADERS]
    edit = world.services.subscriptions.edit
    [seen] = world.services.subscriptions.of_tenant(None)
    before = hook.edit(target_url=ZAPIER).json

    with pytest.raises(ApiError) as refused:
        edit(seen, {"headers": HEADERS})

    assert (refused.value.status_code, refused.value.code) == (409, "edited_meanwhile")
    assert hook.now == before
    edited = edit(seen, {"headers": HEADERS, "target_url": target.url})
    assert edited
    assert hook.now["header_names"] == [*HEADERS]
    edit(edited, {"headers": {"X-New": "1"}})
    edit(edited, {"target_url": ZAPIER})
    assert hook.now == before


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


@pytest.mark.parametrize(
    "event_type, total, reason, member",
    [
        ("order.created", 120, None, None),
        ("order.created", 80, "filter", "order.total"),
        ("invoice.paid", 120, "event_types", None),
    ],
)
def test_a_test_with_a_payload_tells_whether_a_copy_would_be_made(
    world: World,
    target: Receiver,
    event_type: str,
    total: int,
    reason: str | None,
    member: str | None,
) -> None:
    numeric = {"order": {"total": [{"numeric": [">=", 100]}]}}
    hook = Hook(world, target, event_types=["order.*"], tenant="a", filter=numeric)
    posted = {"event_type": event_type, "payload": {"order": {"total": total}}}

    tested = hook.call("test", posted).json
    without = {"filter": numeric, "payload": posted["payload"]}
    unsaved = world.call("POST", "/filters/test", without, key=world.make_token("b")).json

    assert unsaved == {"matches": total >= 100, "member": None if total >= 100 else "order.total"}
    assert_has(tested, outcome="delivered", matches=not reason, reason=reason, member=member)
    assert_has(target.requests[-1].json(), **posted, metadata=None, tenant="a")
    assert world.call("GET", "/events").json["events"] == []


def test_a_test_takes_the_time_of_a_push_and_no_reserved_type(world: World, hook: Hook) -> None:
    world.restart(INLINE_PUSH_TIMEOUT_SECONDS="0.1", PUSH_TIMEOUT_SECONDS="0.3")
    hook.target.script(hang)

    slow = hook.call("test").json

    assert slow["error"] == "timed out"
    assert slow["duration_ms"] >= 250
    reserved = {"event_type": "triggers.event.failed", "payload": {}}
    assert hook.call("test", reserved).faults == ["event_type"]
