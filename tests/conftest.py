"""What several modules of tests share."""

import json
import logging
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chalicelib import telemetry
from chalicelib.push import PushClient
from tests.support.receiver import Receiver
from tests.support.world import Clock, World, world

MakePush = Callable[..., PushClient]
During = Callable[[Any, str, Callable[..., Any]], None]
LogLines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def make_push(clock: Clock) -> Iterator[MakePush]:
    """Return a function that makes push clients, which are closed after the test."""
    made: list[PushClient] = []

    def make(
        *secrets: bytes,
        connect_timeout_seconds: float = 5,
        clock: Callable[[], float] = clock,
        ssl_context: ssl.SSLContext | None = None,
    ) -> PushClient:
        push = PushClient(
            secrets, connect_timeout_seconds=connect_timeout_seconds, clock=clock, ssl_context=ssl_context
        )
        made.append(push)
        return push

    yield make
    for push in made:
        push.close()


@pytest.fixture(scope="module")
def shared_world() -> Iterator[World]:
    """A system for a whole module, whose tests must keep out of each other's way. Nobody listens to its pushes."""
    with world("http://127.0.0.1:9/hook") as system:
        yield system


@pytest.fixture
def during() -> Iterator[During]:
    """Give what has a handler called at an event of a boto3 client, before all others, until the test ends."""
    hooks: list[Any] = []

    def hook(client: Any, event: str, handler: Callable[..., Any]) -> None:
        client.meta.events.register_first(event, handler)
        hooks.append((client.meta.events, event, handler))

    yield hook
    for events, event, handler in hooks:
        events.unregister(event, handler)


@pytest.fixture
def log_lines(capsys: pytest.CaptureFixture[str]) -> Iterator[LogLines]:
    """Give what reads the lines logged since it was last called, debug too."""
    telemetry.configure("DEBUG")
    yield lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    logging.getLogger("triggers_api").setLevel("INFO")
