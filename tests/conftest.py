"""Fixtures that several test modules share."""

import json
import logging
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.support")  # its assertions tell values, too

# ruff: noqa: E402  # what they import is rewritten
from chalicelib.infra import telemetry
from tests.support import world as worlds
from tests.support.aws_calls import Aws
from tests.support.hooks import Hook
from tests.support.openapi import assert_described
from tests.support.receiver import Receiver
from tests.support.versions import PRESENT, Version, load_version
from tests.support.world import Answer, Clock, Json, World, find_route

# test_push measures memory, which is no longer quiet after test_run.
LONGEST = (
    "test_deploy",
    "test_webhooks",
    "test_console",
    "test_crash_points",
    "test_push",
    "test_run",
    "test_stack",
)
PROGRAMMING_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, NameError, TypeError)
During = Callable[[Any, str, Callable[..., Any]], None]
Once = Callable[[Any, str, Callable[[], object]], None]


def pytest_configure() -> None:
    """Let tests interrupt commands: SIGINT is ignored in processes that a shell started in the
    background.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first: pytest-xdist distributes files in the order of their tests."""
    places = {stem: place for place, stem in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(autouse=True)
def programming_errors() -> Iterator[list[BaseException]]:
    """Return the programming errors that the product logs instead of raising; the test fails unless
    it clears them.
    """
    logged: list[BaseException] = []

    def look(record: logging.LogRecord) -> bool:
        error = record.exc_info and record.exc_info[1]
        if isinstance(error, PROGRAMMING_ERRORS):
            logged.append(error)
        return True

    telemetry.logger.addFilter(look)
    yield logged
    telemetry.logger.removeFilter(look)
    for error in logged:
        raise error


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def shared_world() -> Iterator[World]:
    """A system for a whole module; nobody listens to its pushes."""
    with worlds.world("http://127.0.0.1:9/hook") as system:
        yield system


class DescribedWorld(World):
    """Checks every response of the present version against chalicelib/openapi.json."""

    def call(self, method: str, path: str, *args: Any, **kwargs: Any) -> Answer:
        answer = super().call(method, path, *args, **kwargs)
        if self.version is PRESENT:
            assert_described(method, find_route(path.partition("?")[0])[0], answer)
        return answer


@pytest.fixture(scope="module")
def reused_world() -> Iterator[World]:
    with worlds.world("http://127.0.0.1:9/", kind=DescribedWorld) as system:
        yield system


@pytest.fixture
def world(reused_world: World, receiver: Receiver) -> Iterator[World]:
    reused_world.forget(ZAPIER_WEBHOOK_URL=receiver.url)
    yield reused_world
    reused_world.stop()


@pytest.fixture
def aws(world: World) -> Iterator[Aws]:
    aws = Aws(world)
    yield aws
    aws.close()


@pytest.fixture(scope="session")
def released() -> Version:
    """Return the code of version 1.0.0, which a shallow clone does not have."""
    try:
        return load_version()
    except subprocess.CalledProcessError:
        pytest.skip("the commit of 1.0.0 is not in this clone")


@pytest.fixture
def target() -> Iterator[Receiver]:
    """A receiver for subscriptions."""
    with Receiver() as target:
        yield target


@pytest.fixture
def listener() -> Iterator[Receiver]:
    """Another one, such as for reports."""
    with Receiver() as listener:
        yield listener


@pytest.fixture
def hook(world: World, target: Receiver) -> Hook:
    """A subscription to all events, of no tenant."""
    return Hook(world, target)


@pytest.fixture
def customer(world: World, target: Receiver) -> Hook:
    """A subscription of tenant a."""
    return Hook(world, target, tenant="a")


@pytest.fixture
def subscription_id(world: World, target: Receiver) -> str:
    """Return the id of a subscription that every container knows."""
    made = world.subscribe_later(target)
    world.sleep(10)
    return made


@pytest.fixture
def during() -> Iterator[During]:
    """Return a function that registers a handler at an event of a boto3 client until the test
    ends.
    """
    hooks = []

    def hook(client: Any, event: str, handler: Callable[..., Any]) -> None:
        client.meta.events.register_first(event, handler)
        hooks.append((client.meta.events, event, handler))

    yield hook
    for events, event, handler in hooks:
        events.unregister(event, handler)


@pytest.fixture
def once(during: During) -> Iterator[Once]:
    """Return a function that lets something happen at the next event of a boto3 client, which must
    come before the test ends.
    """
    waiting: list[Callable[[], object]] = []

    def act_at(client: Any, event: str, act: Callable[[], object]) -> None:
        waiting.append(act)
        during(client, event, lambda **_: waiting.pop()() if waiting else None)

    yield act_at
    assert waiting == []


class Output:
    """What the system wrote to standard output since it was last read: a JSON object in each
    line.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def lines(self, **having: str) -> list[Json]:
        """Return the lines that have these members."""
        lines = map(json.loads, self._capsys.readouterr().out.splitlines())
        return [line for line in lines if having.items() <= line.items()]

    def metrics(self) -> list[dict[str, float]]:
        """Return the values of each metric line, by name."""
        values = []
        for line in self.lines():
            if "_aws" in line:
                metrics = line["_aws"]["CloudWatchMetrics"][0]["Metrics"]
                values.append({metric["Name"]: line[metric["Name"]] for metric in metrics})
        return values


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Output:
    telemetry.logger.handlers.clear()  # another version, which ran before, shares the logger
    telemetry.configure("INFO", "dev")
    return Output(capsys)
