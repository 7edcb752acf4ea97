"""Fixtures of the tests of commands."""

from collections.abc import Iterator

import pytest

from tests.support.loopback import serve_app
from tests.support.world import KEY, World


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
