"""API keys: who may call, and how settings that were changed count without a deployment."""

import ast
import base64
import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from chalicelib import __version__, settings
from chalicelib import deps as services
from tests.conftest import Output
from tests.support.aws_calls import Aws
from tests.support.moto_aws import REGION
from tests.support.receiver import Receiver
from tests.support.world import (
    CONSUMER_KEY,
    KEY,
    PRODUCER_KEY,
    ROOT,
    Json,
    World,
    assert_has,
    close_connections,
    digest,
)


def test_health_and_the_openapi_document_need_neither_a_key_nor_aws(world: World, aws: Aws) -> None:
    health, document = (world.call("GET", path, key=None) for path in ("/health", "/openapi.json"))

    assert health.status_code == 200
    assert world.call("HEAD", "/health", key=None).status_code == 200
    assert health.json == {"status": "ok", "version": __version__, "stage": "dev"}
    assert document.text == (ROOT / "chalicelib" / "openapi.json").read_text(encoding="utf-8")
    assert aws.calls == []


def test_the_listener_needs_neither_a_key_nor_aws_and_is_for_python_3_8(
    world: World, aws: Aws
) -> None:
    served = world.call("GET", "/listen.py", key=None)
    refused = world.call("GET", "/listen.py?webhook=sub_1", key=None)

    assert served.status_code == 200
    assert served.headers["content-type"] == "text/x-python"
    assert served.text == (ROOT / "examples" / "listen.py").read_text(encoding="utf-8")
    ast.parse(served.text, feature_version=(3, 8))
    assert refused.faults == ["webhook"]
    assert aws.calls == []


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_an_unknown_key_is_refused_like_none(world: World, aws: Aws) -> None:
    bearers = (
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {KEY} x",
        "Bearer schlüssel",
        f"Bearer {digest(KEY)}",
    )
    basics = (
        "Basic",
        f"Basic {KEY}",
        basic(KEY, "wrong"),
        basic("", "wrong"),
        basic("wrong", ""),
        "Basic ä",
    )
    headers = ("", KEY, f"Digest {KEY}", *bearers, *basics)
    without = world.offer(key=None)

    for answer in (
        without,
        *(world.offer(authorization=value) for value in headers),
    ):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"]
        assert answer.text == without.text
    assert aws.calls == []
    for api_keys in ("", f"acme:{digest('')}"):
        world.restart(API_KEYS=api_keys)
        for value in ("", "Bearer", "Bearer ", basic("", ""), "x y", f"Bearer {KEY}"):
            assert world.offer(authorization=value).status_code == 401


def test_a_refused_key_is_logged_without_the_key(world: World, output: Output) -> None:
    for status_code, key in [(401, "wr0ng-key"), (403, PRODUCER_KEY)]:
        assert world.call("GET", "/events", key=key).status_code == status_code
        [line] = output.lines()
        assert_has(
            line, message="key refused", level="WARNING", status_code=status_code, path="/events"
        )
        assert key not in json.dumps(line)


def test_a_key_can_be_tested_as_a_bearer_token_or_as_password_or_user_of_basic(
    world: World,
) -> None:
    tokens = [f"{scheme} {KEY}" for scheme in ("bearer", "BEARER", "bEaReR")]
    passwords = [basic("", KEY), basic("any", KEY), basic("any", KEY).replace("Basic", "basic")]
    # as generated clients send a key
    without_colon = "Basic " + base64.b64encode(KEY.encode()).decode()
    told: Json = {"name": "acme", "scopes": ["consume", "erase", "produce"], "stage": "dev"}
    told |= dict.fromkeys(("tenant", "expires_at", "event_types"))
    told |= {"webhook": {"host": "127.0.0.1"}, "suspended_tenants": []}
    for authorization in (*tokens, *passwords, basic(KEY, ""), without_colon):
        assert world.get("/me", authorization=authorization) == told
    assert_has(world.get("/me", key=PRODUCER_KEY), name="shop", scopes=["produce"])
    assert "webhook" not in world.get("/me", key=PRODUCER_KEY)
    world.restart(EVENT_TYPES="order.created,invoice.paid", ZAPIER_WEBHOOK_URL="subscriptions")
    assert_has(world.get("/me"), event_types=["order.created", "invoice.paid"], webhook=None)


def test_customers_read_what_the_catalogue_says_of_the_types_to_choose_from(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    catalogue = {
        "order.created": {"description": "Placed. Größe: <b>5</b>", "example": {"total": 120}},
        "order.paid": {},
    }
    token = world.make_token("customer-42")
    path = "/me?include=catalogue"
    assert world.get(path, key=token)["catalogue"] is None
    file = tmp_path / "event_types.json"
    file.write_text(json.dumps(catalogue), encoding="utf-8-sig")  # as some editors save it
    # The catalogue is a file of the package, which other tests read meanwhile.
    monkeypatch.setattr(settings, "CATALOGUE", file)
    world.restart()

    for key in (token, PRODUCER_KEY):
        assert_has(world.get(path, key=key), catalogue=catalogue, event_types=[*catalogue])
    assert world.offer({"event_type": "not.listed", "payload": {}}).status_code == 202
    world.restart(EVENT_TYPES="order.made,order.created")
    chosen = {"order.made": {}, "order.created": catalogue["order.created"]}
    assert_has(world.get(path), catalogue=chosen, event_types=[*chosen])


def test_a_filter_that_is_tried_is_refused_as_one_that_is_saved(
    world: World, target: Receiver
) -> None:
    faulty = {"filter": {"total": [{"numric": [">", 100]}]}}
    tried = world.call("POST", "/filters/test", {**faulty, "payload": {}})
    saved = world.call("POST", "/subscriptions", {**faulty, "target_url": target.url})

    assert tried.status_code == 400
    assert tried.json["errors"] == saved.json["errors"]
    without = world.call("POST", "/filters/test", {"filter": {"total": [100]}}).json
    assert without["errors"] == [{"field": "payload", "message": "is required"}]
    assert world.call("POST", "/filters/test", {}, key=PRODUCER_KEY).status_code == 403


def test_missing_or_bad_settings_are_named_never_their_values(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        **world.environ,
        "API_KEYS": "payload-itself",
        "ZAPIER_WEBHOOK_URL": "",
    }.items():
        monkeypatch.setenv(name, value)
    services.use(None)

    answer = world.offer()

    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    for words in ("API_KEYS is unusable: it must be", "ZAPIER_WEBHOOK_URL is missing: it must be"):
        assert words in answer.json["detail"]
    assert "payload-itself" not in answer.text
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    # as soon as they are corrected
    assert world.call("GET", "/events", key=CONSUMER_KEY).status_code == 200


NAME = "triggers-api-dev-settings"


class Secret:
    """The secret that a container reads its settings from."""

    def __init__(self, world: World) -> None:
        self._environ = {**world.environ, "BREAKER_OPEN_SECONDS": "3600"}
        self.client = boto3.client("secretsmanager")
        self.client.create_secret(Name=NAME)
        self.put()

    def put(self, **changes: str) -> None:
        text = "".join(f"{name}={value}\n" for name, value in {**self._environ, **changes}.items())
        self.client.put_secret_value(SecretId=NAME, SecretString=text)

    def delete(self) -> None:
        self.client.delete_secret(SecretId=NAME, ForceDeleteWithoutRecovery=True)


@pytest.fixture
def secret(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Secret]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("SETTINGS_SECRET", NAME)
    secret = Secret(world)
    services.use(None)
    current = services.get()
    world.clock.now = current.clock()
    current.clock = world.clock
    yield secret
    close_connections(current.push)
    secret.delete()


def test_changes_count_within_five_minutes(
    world: World, secret: Secret, receiver: Receiver, target: Receiver
) -> None:
    inline_breaker = services.get().inline_breaker
    worker_breaker = services.get().worker_breaker
    secret.put(API_KEYS=f"acme:{digest('new-key')}")

    for wait_seconds, codes in (
        (0, [202, 401]),
        (0, [202, 401]),
        (299, [202, 401]),
        (1, [401, 202]),
    ):
        world.sleep(wait_seconds)
        posts = [world.offer(key=key).status_code for key in (KEY, "new-key")]
        assert posts == codes

    # Connections and breakers have survived.
    assert receiver.count == 4
    assert receiver.connections == 1
    assert services.get().inline_breaker == inline_breaker
    assert services.get().worker_breaker == worker_breaker
    secret.put(API_KEYS=f"acme:{digest('new-key')}", ZAPIER_WEBHOOK_URL=target.url)
    world.sleep(300)
    world.offer(key="new-key")
    assert receiver.count == 4
    assert target.count == 1


@pytest.mark.parametrize("is_gone", [True, False])
def test_the_last_good_settings_stay(
    world: World, secret: Secret, output: Output, is_gone: bool
) -> None:
    secret.delete() if is_gone else secret.put(API_KEYS="nonsense")

    for warnings in (0, 0, 1, 0, 1):
        assert [world.call("GET", "/me").status_code for _ in range(2)] == [200, 200]
        assert [line["level"] for line in output.lines()].count("WARNING") == warnings
        world.sleep(150)
    services.use(None)
    assert world.call("GET", "/me").status_code == 503
