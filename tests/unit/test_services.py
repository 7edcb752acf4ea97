import gc
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.exceptions import NoRegionError

from chalicelib import aws, services
from chalicelib.events import Event, Status
from chalicelib.push import Result
from chalicelib.settings import SettingsError, load
from tests.support.receiver import Receiver
from tests.support.world import Clock, World

EVENT = Event("evt_" + "0" * 32, "t", Status.PENDING, "2026-11-25T00:00:00.000001Z", "acme", expires_at=5, size=6)


@pytest.fixture
def environ(shared_world: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Give a container's environment, before anything was built in it."""
    for name, value in {**shared_world.environ, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(services, "_services", None)
    return shared_world.environ


@pytest.mark.usefixtures("environ")
def test_services_are_built_once_though_many_threads_ask_at_once() -> None:
    with ThreadPoolExecutor(16) as pool:
        given = list(pool.map(lambda _: services.get(), range(16)))
    assert all(each is given[0] for each in given)
    assert given[0].store.get(EVENT.event_id) is None
    assert given[0].inbox.depth() == 0


@pytest.mark.usefixtures("environ")
def test_what_a_path_does_not_use_is_not_made_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    client = boto3.client

    def noted(service: str, **options: Any) -> Any:
        made.append(service)
        return client(service, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(boto3, "client", noted)
    given = services.get()
    assert given.store.get(EVENT.event_id) is None
    assert made == ["dynamodb"]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda _: given.inbox.depth(), range(16))) == [0] * 16
    assert made == ["dynamodb", "sqs"]


@pytest.mark.usefixtures("environ")
def test_an_unusable_environment_stops_every_call_until_it_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_DELIVERY_ATTEMPTS", "many")
    for _ in range(2):
        with pytest.raises(SettingsError, match="MAX_DELIVERY_ATTEMPTS"):
            services.get()
    monkeypatch.delenv("MAX_DELIVERY_ATTEMPTS")
    assert services.get().settings.max_delivery_attempts == 20


def test_garbage_is_collected_though_building_failed(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**environ, "AWS_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    services.use(None)
    with pytest.raises(NoRegionError):
        services.get()
    assert gc.isenabled()


@pytest.mark.usefixtures("environ")
def test_an_aws_call_takes_no_longer_than_the_arithmetic_elsewhere_believes() -> None:
    config = services.get().store._client.meta.config
    tries = config.retries["total_max_attempts"]
    assert config.retries["mode"] == "standard"
    assert (config.connect_timeout, config.read_timeout, tries) == (1, 2, 2)
    assert tries * (config.connect_timeout + config.read_timeout) + 1 <= aws.CALL_SECONDS
    assert services.get().inbox._client.meta.config.read_timeout == 2
    assert config.max_pool_connections >= 64  # no batch's threads wait for each other's connections


def test_services_that_are_given_are_used(environ: dict[str, str], shared_world: World) -> None:
    services.use(shared_world.services)
    assert services.get() is shared_world.services
    services.use(None)
    assert services.get() is not shared_world.services


def test_what_the_settings_say_reaches_those_who_do_it(
    environ: dict[str, str], receiver: Receiver, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {
        "ZAPIER_WEBHOOK_URL": receiver.url,
        "WEBHOOK_SIGNING_SECRETS": "whsec_c2VjcmV0 whsec_b3RoZXI=",
        "BREAKER_FAILURES": "2",
        "BREAKER_OPEN_SECONDS": "7",
        "STAGE": "test",
        "METRICS_NAMESPACE": "Mine",
    }
    built = services.build(load(environ | more), None, None, clock=clock)
    assert built.push.send(EVENT, 5).result is Outcome.DELIVERED
    assert receiver.requests[0].headers["webhook-signature"].count("v1,") == 2
    for _, connection in built.push._kept:
        connection.close()
    allowed = []
    for _ in range(3):
        allowed.append(built.breaker.allows())
        built.breaker.failed(timed_out=False)
    clock.sleep(7)
    assert [*allowed, built.breaker.allows()] == [True, True, False, True]
    built.metrics.emit(DLQDepth=1)
    line = json.loads(capsys.readouterr().out)
    assert (line["Stage"], line["_aws"]["CloudWatchMetrics"][0]["Namespace"]) == ("test", "Mine")
    assert (built.inbox.name, built.dlq.name) == ("triggers-api-dev-inbox-queue", "triggers-api-dev-inbox-dlq")


def test_ids_are_32_hexadecimal_digits_and_never_the_same(environ: dict[str, str]) -> None:
    built = services.build(load(environ), None, None)
    made = {built.new_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(len(each) == 32 and set(each) <= set("0123456789abcdef") for each in made)
