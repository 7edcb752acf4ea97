"""The Zapier integration against a running system, in Zapier's own test harness."""

import os
import subprocess

import pytest

from tests.support.running import running
from tests.support.world import ROOT

INTEGRATION = ROOT / "examples" / "zapier"

pytestmark = [
    pytest.mark.timeout(180),
    # What `make zapier` installs may be half there when other tests run.
    pytest.mark.skipif("ZAPIER" not in os.environ, reason="`make zapier` sets ZAPIER"),
]


def test_the_integration_passes_in_zapiers_test_harness() -> None:
    with running(SUBSCRIPTION_HOSTS="127.0.0.1") as system:
        environ = {
            **os.environ,
            "TRIGGERS_URL": f"http://127.0.0.1:{system.port}",
            "TRIGGERS_API_KEY": system.key,
        }
        result = subprocess.run(
            ["node", "--test"],
            cwd=INTEGRATION,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 0, result.stdout + result.stderr
