"""The settings are read again every five minutes: a rotated key or URL counts without a
deployment.
"""

from collections.abc import Iterator

import boto3
import pytest

from chalicelib import deps as services
from tests.conftest import Output
from tests.support.receiver import Receiver
from tests.support.world import KEY, REGION, World, digest

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
    current.push.close()
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
