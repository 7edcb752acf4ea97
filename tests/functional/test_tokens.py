"""A token opens what is its tenant's, and nothing else."""

import base64
import re
from random import Random

import pytest

from chalicelib.infra.times import rfc3339
from tests.support.hooks import Hook
from tests.support.receiver import Receiver
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
    token = world.make_token(MINE)  # signed with the first
    first, second = SIGNING_SECRETS
    for secrets, code in (first, 200), (f"{second} {first}", 200), (second, 401), ("", 401):
        world.restart(WEBHOOK_SIGNING_SECRETS=secrets)
        assert me(world, token).status_code == code

    refused = world.call("POST", "/tokens", {"tenant": MINE}, key=CONSUMER_KEY)
    assert refused.problem == (409, "no_signing_secret")


def test_a_token_ends_with_the_key_that_made_it(world: World) -> None:
    token = world.make_token(MINE)
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
    token = world.make_token(MINE)
    other = world.make_token(OTHER)
    content, _, tag = token.removeprefix("trt_").partition(".")
    forged = [f"trt_{content}.{other[-43:]}", f"{content}.{tag}", f"trt_.{tag}", "trt_", "trt_."]
    forged += [f"{token}=", token.upper(), f"trt_{content}=.{tag}", f"trt_{content}\ud800.{tag}"]
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
    token = world.make_token(MINE)
    # another tenant's, and nobody's
    hooks = [Hook(world, target, tenant=tenant) for tenant in (OTHER, None)]
    events = [world.post_for(tenant) for tenant in (OTHER, MINE, None)]
    event_ids = [each for event in events for each in (event["event_id"], *event["copies"])]
    assert len(event_ids) == 3 + 4
    calls = (("GET", ""), ("PATCH", ""), ("GET", "/secret"), ("POST", "/test"), ("POST", "/enable"))
    hidden = [("GET", f"/events/{event_id}") for event_id in event_ids]
    hidden += [("POST", f"{path}/replay") for _, path in hidden]
    hidden += [(verb, hook.path + path) for hook in hooks for verb, path in calls]
    for verb, path in hidden:
        assert world.call(verb, path, "{}", key=token).problem == (404, "not_found")
    for hook in hooks:
        assert world.call("DELETE", hook.path, key=token).status_code == 204
        listed = world.call("GET", f"/events?subscription_id={hook.id}", key=token)
        assert listed.problem == (403, "forbidden")
    assert len(world.subscriptions("*")) == 2
    assert world.get("/subscriptions", key=token)["subscriptions"] == []


def test_another_tenant_cannot_be_named_with_a_token(world: World, target: Receiver) -> None:
    token = world.make_token(MINE)
    made = world.subscribe(target, key=token)
    assert world.subscribe(target, key=token, tenant=MINE).json == made.json
    refused = [world.subscribe(target, key=token, tenant=OTHER)]
    paths = ("/subscriptions?tenant=", f"/events?subscription_id={made.location[-36:]}&tenant=")
    for path in paths:
        refused.append(world.call("GET", path + OTHER, key=token))
        assert world.call("GET", path + MINE, key=token).status_code == 200
    refused.append(world.call("GET", "/subscriptions?tenant=*", key=token))

    assert [answer.problem for answer in refused] == [(403, "forbidden")] * 4
    [shown] = world.subscriptions("*")
    assert_has(made.json, **shown)
    assert_has(shown, tenant=MINE, created_by=f"tenant:{MINE}")
    assert world.call("DELETE", made.location, key=token).status_code == 204
    assert world.subscriptions("*") == []


def test_a_token_is_not_told_which_hosts_the_operator_allows(world: World) -> None:
    token = world.make_token(MINE)
    for url in ("https://forbidden.example/", "http://hooks.zapier.com/", "ftp://x", "https://x y"):
        answer = world.subscribe(url, key=token)
        operators = world.subscribe(url)

        assert answer.faults == operators.faults == ["target_url"]
        assert ("hooks.zapier.com" in operators.text) == url.startswith("https:")
        assert not re.search(r"hooks.zapier.com|127.0.0.1|SUBSCRIPTION_HOSTS", answer.text)
