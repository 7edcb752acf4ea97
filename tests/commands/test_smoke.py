"""`make smoke` of a stage whose worker does nothing: it fails, and leaves nothing."""

from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.receiver import Receiver
from tests.support.world import World, digest
from tools import smoke

pytestmark = pytest.mark.usefixtures("served_app", "lost_response")


def test_smoke_fails_unless_the_worker_pushes_and_leaves_nothing_even_if_stopped(
    world: World, target: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(sleep=world.sleep, monotonic=world.clock)
    # A command has no parameter for a clock.
    monkeypatch.setattr(smoke, "time", clock)
    all_scopes = f"all:{digest('all')}:produce+consume+erase"
    world.restart(API_KEYS=f"{world.environ['API_KEYS']},{all_scopes}")
    variables = {"TRIGGERS_API_KEY": "all", "TARGET_URL": target.url}

    ran = CliRunner().invoke(smoke.main, env=variables)

    assert ran.exit_code == 1
    assert "GET /events, not" in ran.stderr
    assert 'not "status": "delivered": ' in ran.stderr
    assert target.count == 1  # of the test
    assert (world.listed("/events"), world.subscriptions("*")) == ([], [])
    check = smoke.check

    def stop_before_acknowledge(*arguments: Any, **options: Any) -> Any:
        if "/inbox/acknowledge" in arguments:
            raise KeyboardInterrupt
        return check(*arguments, **options)

    # Ctrl-C at this very place.
    monkeypatch.setattr(smoke, "check", stop_before_acknowledge)
    stopped = CliRunner().invoke(smoke.main, env=variables)
    assert "Aborted!" in stopped.stderr
    assert (world.listed("/events"), world.subscriptions("*")) == ([], [])
