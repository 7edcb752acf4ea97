"""The whole system as `make run` starts it, and a tab of Chromium with its page."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.support.aws_over_http import aws_over_http
from tests.support.console import Console
from tests.support.packages import install_from_npm
from tests.support.receiver import PATIENCE_SECONDS, Receiver
from tests.support.running import Run, running
from tests.support.world import digest

# The shell, which has no windows, starts and ends in half the time.
CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
KEYS = {"shop": "produce+consume+erase", "desk": "consume", "till": "produce"}
HASTY = {
    "MAX_DELIVERY_ATTEMPTS": "2",
    "BACKOFF_BASE_SECONDS": "0.5",
    "SUBSCRIPTION_DISABLE_DAYS": "0.00001",
}
# the page refreshes every 3 s
HURRY = "window.wait = setTimeout; setTimeout = (act, ms) => wait(act, ms / 10);"
ELSEWHERE = "Asia/Kolkata"  # +05:30


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def system(receiver: Receiver) -> Iterator[Run]:
    keys = ",".join(f"{name}:{digest(f'{name}-key')}:{scopes}" for name, scopes in KEYS.items())
    own = {"API_KEYS": keys, "ZAPIER_WEBHOOK_URL": receiver.url, "SUBSCRIPTION_HOSTS": "127.0.0.1"}
    with (
        aws_over_http() as url,
        running(key="shop-key", AWS_ENDPOINT_URL=url, **own, **HASTY) as system,
    ):
        yield system


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium; on Debian and Ubuntu: apt-get install chromium")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"]
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=0)


@pytest.fixture(scope="module")
def packages() -> Path:
    """Return the folder of what npm installs."""
    if not shutil.which("npm"):
        pytest.skip("no npm; on Debian and Ubuntu: apt-get install npm")
    return install_from_npm()


@pytest.fixture(scope="module")
def axe(packages: Path) -> str:
    """Return the script of axe-core."""
    return (packages / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def console(browser: Browser, system: Run, receiver: Receiver) -> Iterator[Console]:
    receiver.default = 200
    permissions = ["clipboard-read", "clipboard-write"]
    context = browser.new_context(
        viewport={"width": 1100, "height": 800}, permissions=permissions, timezone_id=ELSEWHERE
    )
    context.add_init_script(HURRY)
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    expect.set_options(timeout=PATIENCE_SECONDS * 1000)
    console = Console(context, system)
    yield console
    assert console.page.evaluate("[window.hacked, document.images.length]") == [None, 0]
    console.page.goto("about:blank")  # a poll would miss the routes
    console.page.unroute_all(behavior="ignoreErrors")
    context.close()
    for one in console.api("GET", "/subscriptions?tenant=*")["subscriptions"]:
        system.call("DELETE", f"/subscriptions/{one['subscription_id']}")
    while pending := console.pending():
        for one in pending:
            system.call("DELETE", f"/events/{one['event_id']}")
    assert console.faults == []
