"""`make pictures`: draw the pictures of the docs anew, from the page as it is today."""

import base64
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from tests.support.console import Console
from tests.support.receiver import Exchange, Receiver, status
from tests.support.running import ROOT, running
from tests.support.world import digest

DOCS = ROOT / "docs"
VIEWPORT: ViewportSize = {"width": 760, "height": 1010}
FROM_100_ON = {"order": {"total": [{"numeric": [">=", 100]}]}}
SUBSCRIPTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("CRM", "acme", {}),
    ("Ledger", "acme", {"event_types": ["order.*"]}),
    ("Corp orders", "acme", {"filter": FROM_100_ON}),
    ("Shipping", "globex", {"event_types": ["order.paid", "shipment.*"]}),
)
TYPES = ("order.created", "order.paid", "invoice.sent", "shipment.sent")
TENANTS = ("acme", "globex", None)


def answer(exchange: Exchange) -> None:
    """Refuse what the ledger gets of the order that is shown, and let the rest of globex wait."""
    request = exchange.request
    is_refused = request.path == "/ledger" and request.json()["subject"] == "order-4711"
    if is_refused:
        status(422, body=b'{"error": "no account for order-4711"}')(exchange)
    elif request.path == "/shipping":
        status(503, body=b"upstream connect error")(exchange)
    else:
        status(200)(exchange)


def open_tab(browser: Browser, port: int, place: str) -> Page:
    page = browser.new_page(viewport=VIEWPORT)
    page.goto(f"http://127.0.0.1:{port}/#{place}")
    return page


def beside(browser: Browser, left: Page, right: Page, path: Path) -> None:
    """Save two pages as one picture."""
    images = [base64.b64encode(page.screenshot()).decode() for page in (left, right)]
    both = browser.new_page(viewport={"width": 1521, "height": VIEWPORT["height"]})
    shown = [f"<img src='data:image/png;base64,{image}'>" for image in images]
    both.set_content(
        f"<body style='margin:0;display:flex;gap:1px;background:#dfe3e9'>{shown[0]}{shown[1]}"
    )
    both.screenshot(path=path)


def main() -> None:
    keys = f"shop:{digest('shop-key')}:produce+consume+erase"
    with Receiver() as receiver, sync_playwright() as playwright:
        receiver.default = answer
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        settings = {
            "API_KEYS": keys,
            "ZAPIER_WEBHOOK_URL": receiver.url,
            "SUBSCRIPTION_HOSTS": "127.0.0.1",
            "EVENT_TYPES": ",".join(TYPES),
        }
        with running(key="shop-key", **settings) as system:
            api = Console(browser.new_context(), system)
            for name, tenant, members in SUBSCRIPTIONS:
                url = urljoin(receiver.url, f"/{name.split()[0].lower()}")
                api.subscribe(url, name=name, tenant=tenant, **members)
            for number in range(24):
                payload = {"order": {"id": 4700 + number, "total": 30 + number * 37 % 250}}
                members = {"tenant": TENANTS[number % 3], "subject": f"order-{4687 + number}"}
                api.post(TYPES[number % 4], payload=payload, **members)
            shown = api.post(
                "order.paid", tenant="acme", subject="order-4711", payload={"order": {"total": 80}}
            )
            events = open_tab(browser, system.port, "/?key=shop-key")
            event = open_tab(browser, system.port, f"/events/{shown['event_id']}?key=shop-key")
            events.get_by_text("at most").wait_for()
            event.get_by_text("this has 80").wait_for()
            beside(browser, events, event, DOCS / "console.png")
            token = api.api("POST", "/tokens", tenant="acme")["token"]
            webhooks = open_tab(browser, system.port, f"key={token}")
            webhooks.get_by_role("button", name="Send test").last.click()
            webhooks.get_by_text("status 200").first.wait_for()
            deliveries = open_tab(browser, system.port, f"key={token}")
            deliveries.get_by_role("link", name="1 failed").click()
            deliveries.locator("#rows a").click()
            deliveries.get_by_text("no account").wait_for()
            beside(browser, webhooks, deliveries, DOCS / "customer.png")


if __name__ == "__main__":
    main()
