"""A token opens what is its tenant's, and nothing else."""

import base64
import re
from random import Random

import pytest

from chalicelib.infra.times import rfc3339
from tests.support.receiver import Receiver
from tests.support.subscribing import (
    id_of_new,
    make_token,
    post_for,
    subscribe,
    subscriptions,
)
from tests.support.world import (
    CONSUMER_KEY,
    KEY,
    PRODUCER_KEY,
    SIGNING_SECRETS,
    Answer,
    World,
    assert_has,
    digest,
)

MINE = "customer-42"
OTHER = "customer-43"


def me(world: World, token: str) -> Answer:
    return world.call("GET", "/me", key=token)


# What a token is


@pytest.mark.parametrize("members, seconds", [({"expires_in_seconds": 60}, 60), ({}, 3600)])
def test_a_token_says_whose_it_is_and_ends_when_it_says(
    world: World, members: dict[str, int], seconds: int
) -> None:
    made = world.call("POST", "/tokens", {"tenant": MINE, **members}, key=CONSUMER_KEY).json
    credentials = base64.b64encode(f"anyone:{made['token']}".encode()).decode()
    told = world.get("/me", authorization=f"Basic {credentials}")
    world.sleep(seconds - 1)
    before = me(world, made["token"])
    world.sleep(1)

    assert_has(made, tenant=MINE, expires_at=rfc3339(world.clock()))
    assert_has(told, name=MINE, tenant=MINE, scopes=[], expires_at=made["expires_at"])
    assert "webhook" not in told
    assert before.status_code == 200
    assert me(world, made["token"]).status_code == 401


def test_a_token_lasts_through_a_rotation_and_ends_with_its_signing_secret(world: World) -> None:
    token = make_token(world, MINE)  # signed with the first
    statuses = []
    for secrets in (
        SIGNING_SECRETS[0],
        " ".join(reversed(SIGNING_SECRETS)),
        SIGNING_SECRETS[1],
        "",
    ):
        world.restart(WEBHOOK_SIGNING_SECRETS=secrets)
        statuses.append(me(world, token).status_code)

    assert statuses == [200, 200, 401, 401]
    refused = world.call("POST", "/tokens", {"tenant": MINE}, key=CONSUMER_KEY)
    assert refused.problem == (409, "no_signing_secret")


def test_a_token_ends_with_the_key_that_made_it(world: World) -> None:
    token = make_token(world, MINE)
    for api_keys, status_code in (
        # rotation
        (f"reader:{digest('another')}:consume,reader:{digest(CONSUMER_KEY)}:consume", 200),
        (f"acme:{digest(KEY)},shop:{digest(PRODUCER_KEY)}:produce", 401),
        (f"reader:{digest('another')}:consume", 401),
        (f"other:{digest(CONSUMER_KEY)}:consume", 401),
        (f"reader:{digest(CONSUMER_KEY)}:produce+erase", 401),
    ):
        world.restart(API_KEYS=api_keys)
        assert me(world, token).status_code == status_code


def test_only_true_tokens_are_taken(world: World) -> None:
    random = Random(7)
    token = make_token(world, MINE)
    other = make_token(world, OTHER)
    content, _, tag = token.removeprefix("trt_").partition(".")
    forged = [
        f"trt_{content}.{other[-43:]}",
        f"{content}.{tag}",
        f"trt_.{tag}",
        "trt_",
        "trt_.",
        f"{token}=",
        token.upper(),
        f"trt_{content}=.{tag}",
        f"trt_{content}\ud800.{tag}",
    ]
    for place in range(len(token)):  # each character changed, left out and repeated
        changed = random.choice("ABCxyz019-_.=\0 é")
        forged += [token[:place] + changed * count + token[place + 1 :] for count in (0, 1, 2)]
        forged.append(token[:place])

    answers = [me(world, text) for text in forged if text.strip() != token]

    assert len(answers) > 250
    assert {answer.status_code for answer in answers} == {401}
    assert me(world, token).status_code == 200


# What a token opens


def test_a_token_sees_nothing_of_others(world: World, target: Receiver) -> None:
    token = make_token(world, MINE)
    # another tenant's, and nobody's
    subscription_ids = [id_of_new(world, target, tenant=tenant) for tenant in (OTHER, None)]
    events = [post_for(world, tenant) for tenant in (OTHER, MINE, None)]
    event_ids = [each for event in events for each in (event["event_id"], *event["copies"])]
    assert len(event_ids) == 3 + 4
    of_events = (("GET", ""), ("POST", "/replay"))
    calls = (("GET", ""), ("PATCH", ""), ("GET", "/secret"), ("POST", "/test"), ("POST", "/enable"))
    hidden = [(verb, f"/events/{key}{path}") for key in event_ids for verb, path in of_events]
    hidden += [
        (verb, f"/subscriptions/{key}{path}") for key in subscription_ids for verb, path in calls
    ]
    for verb, path in hidden:
        assert world.call(verb, path, "{}", key=token).problem == (404, "not_found")
    for subscription_id in subscription_ids:
        path = f"/subscriptions/{subscription_id}"
        assert world.call("DELETE", path, key=token).status_code == 204
        assert world.call("GET", path).status_code == 200
        listed = world.call("GET", f"/events?subscription_id={subscription_id}", key=token)
        assert listed.problem == (403, "forbidden")
    assert world.get("/subscriptions", key=token)["subscriptions"] == []


def test_another_tenant_cannot_be_named_with_a_token(world: World, target: Receiver) -> None:
    token = make_token(world, MINE)
    made = subscribe(world, target, key=token)
    mine = made.json["subscription_id"]
    posted = subscribe(world, target, key=token, tenant=OTHER)
    paths = ("/subscriptions?tenant=", f"/events?subscription_id={mine}&tenant=")
    refused, own = (
        [world.call("GET", path + tenant, key=token) for path in paths] for tenant in (OTHER, MINE)
    )
    refused.append(world.call("GET", "/subscriptions?tenant=*", key=token))

    assert [answer.problem for answer in (posted, *refused)] == [(403, "forbidden")] * 4
    assert [answer.status_code for answer in own] == [200, 200]
    assert subscribe(world, target, key=token, tenant=MINE).json == made.json
    [shown] = own[0].json["subscriptions"]
    assert subscriptions(world, "*") == [shown]
    assert_has(made.json, **shown)
    assert_has(shown, tenant=MINE, created_by=f"tenant:{MINE}")
    assert world.call("DELETE", made.location, key=token).status_code == 204
    assert subscriptions(world, "*") == []


def test_a_token_is_not_told_which_hosts_the_operator_allows(world: World) -> None:
    token = make_token(world, MINE)
    for url in ("https://forbidden.example/", "http://hooks.zapier.com/", "ftp://x", "https://x y"):
        answer = subscribe(world, url, key=token)
        operators = subscribe(world, url)

        assert answer.faults == operators.faults == ["target_url"]
        assert ("hooks.zapier.com" in operators.text) == url.startswith("https:")
        assert not re.search(r"hooks.zapier.com|127.0.0.1|SUBSCRIPTION_HOSTS", answer.text)
