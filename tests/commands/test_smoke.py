"""`make smoke` of a stage whose worker does nothing: it fails, and leaves nothing."""

import pytest
from click.testing import CliRunner

from tests.support.receiver import Receiver
from tests.support.subscribing import listed, subscriptions
from tests.support.world import World, digest
from tools import smoke

pytestmark = pytest.mark.usefixtures("served_app", "lost_response")


def test_smoke_fails_unless_the_worker_pushes(
    world: World, target: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "PAUSES_SECONDS", (0,))
    all_scopes = f"all:{digest('all')}:produce+consume+erase"
    world.restart(API_KEYS=f"{world.environ['API_KEYS']},{all_scopes}")
    variables = {"TRIGGERS_API_KEY": "all", "TARGET_URL": target.url}

    ran = CliRunner().invoke(smoke.main, env=variables)

    assert ran.exit_code == 1
    assert "GET /events, not" in ran.stderr
    assert 'not "status": "delivered": ' in ran.stderr
    assert target.count == 1  # of the test
    assert (listed(world, "/events"), subscriptions(world, "*")) == ([], [])
