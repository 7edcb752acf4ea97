"""Fixtures of the tests of commands."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.loopback import serve_app
from tests.support.world import KEY, World
from tools.api import Api


@pytest.fixture
def served_app(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve the app, and set what the commands read."""
    for name in ("STAGE", "MAKELEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("TRIGGERS_API_KEY", KEY)
    with serve_app() as port:
        monkeypatch.setenv("TRIGGERS_URL", f"http://127.0.0.1:{port}/")
        yield


@pytest.fixture
def lost_response(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat each call that makes a subscription, as if its first response were lost."""
    request = Api.request

    def repeat(*arguments: Any, **options: Any) -> Any:
        if arguments[1:] == ("POST", "/subscriptions"):
            request(*arguments, **options)
        return request(*arguments, **options)

    # The command makes its client itself.
    monkeypatch.setattr(Api, "request", repeat)
