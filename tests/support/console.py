"""A tab with the console page, in Chromium."""

import json
import os
from typing import Any

from playwright.sync_api import BrowserContext, Locator, expect

from tests.support.receiver import Exchange, status
from tests.support.running import Run
from tests.support.world import ROOT

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
FOCUSED = (
    "(node => [node.closest('label, a, button, summary')?.textContent, "
    "node.ariaLabel].join())(document.activeElement)"
)


def refuse_copies(exchange: Exchange) -> None:
    is_copy = exchange.request.headers["webhook-id"].startswith("cpy_")
    status(422 if is_copy else 200, body=HOSTILE.encode())(exchange)


class Console:
    """A tab with the console. `faults` is what it should not do; it must be empty in the end."""

    def __init__(self, context: BrowserContext, system: Run) -> None:
        self.system = system
        self.origin = f"http://127.0.0.1:{system.port}"
        self.faults: list[str] = []
        allowed = (f"{self.origin}/", "data:")
        context.on(
            "console",
            lambda message: self._check(message.type not in ("error", "warning"), message.text),
        )
        context.on("weberror", lambda error: self._check(False, str(error.error)))
        context.on(
            "request", lambda request: self._check(request.url.startswith(allowed), request.url)
        )
        context.on(
            "response", lambda answer: self._check(answer.status != 403, f"403: {answer.url}")
        )
        self.page = context.new_page()

    def go(self, place: str) -> None:
        self.page.goto(f"{self.origin}/#{place}")

    def open(self, place: str = "/", key: str = "shop-key") -> None:
        self.go(f"{place}{'&' if '?' in place else '?'}key={key}")
        self.text("#who").to_be_visible()

    def text(self, selector: str) -> Any:
        return expect(self.page.locator(selector))

    def reads(self, selector: str, text: Any) -> None:
        """Expect elements to have a text, or texts."""
        self.text(selector).to_have_text(text)

    def contains(self, selector: str, text: Any) -> None:
        """Expect an element to have a text among others."""
        self.text(selector).to_contain_text(text)

    def shows(self, heading: str) -> None:
        """Expect a heading to be there."""
        self.heading(heading).to_be_visible()

    def heading(self, name: str) -> Any:
        return expect(self.page.get_by_role("heading", name=name))

    def copied(self, name: str) -> str:
        """Return what the button `Copy <name>` copies."""
        self.click(f"Copy {name}")
        self.reads("#announcement", "Copied")
        return str(self.page.evaluate("navigator.clipboard.readText()"))

    def button(self, name: str, *, exact: bool = False) -> Locator:
        return self.page.get_by_role("button", name=name, exact=exact)

    def click(self, button: str, *, exact: bool = False) -> None:
        self.button(button, exact=exact).click()

    def follow(self, link: str) -> None:
        self.page.get_by_role("link", name=link).click()

    def unfold(self, text: str) -> None:
        self.page.get_by_text(text).click()

    def buttons(self) -> list[str]:
        """Return the names of the buttons that can be seen, without counts."""
        visible = [
            button.inner_text()
            for button in self.page.get_by_role("button").all()
            if button.is_visible()
        ]
        return [text.partition("\n")[0] for text in visible]

    def row(self, event: dict[str, Any]) -> Locator:
        return self.page.locator(f"#rows a[href='#/events/{event['event_id']}']")

    def api(self, method: str, path: str, **body: Any) -> Any:
        return json.loads(self.system.call(method, path, json.dumps(body))[2])

    def token(self) -> str:
        """Return a new token of the tenant `acme`."""
        return str(self.api("POST", "/tokens", tenant="acme")["token"])

    def subscribe(self, url: str, **members: Any) -> Any:
        return self.api("POST", "/subscriptions", target_url=url, **members)

    def post(self, event_type: str, **members: Any) -> Any:
        given = {"payload": {"order_id": "12345"}, "metadata": {"source": "shop"}, **members}
        return self.api("POST", "/events", event_type=event_type, **given)

    def pending(self, query: str = "") -> Any:
        return self.api("GET", f"/events?status=pending{query}")["events"]

    def find(self, text: str) -> None:
        self.page.get_by_label("Find by id or subject").fill(text)
        self.page.keyboard.press("Enter")

    def press(self, name: str, confirmation: str = "") -> None:
        self.click(name)
        self.page.get_by_role("dialog").get_by_role("button", name=confirmation or name).click()

    def forgive(self, text: str) -> None:
        """Expect faults with this text, and no others so far."""
        assert {text in fault for fault in self.faults} == {True}
        self.faults.clear()

    def check_looks(self, name: str, axe: str) -> None:
        """Look for faults of accessibility, in the dark of contrast; with PICTURES set, take a
        screenshot, too.
        """
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        self.page.evaluate(axe)
        self.page.emulate_media(color_scheme="light")
        if "PICTURES" in os.environ:
            path = ROOT / "build" / "screenshots" / f"{name}-light.png"
            self.page.screenshot(path=path, full_page=True)
        self._expect_no_faults()
        self.page.emulate_media(color_scheme="dark")
        self._expect_no_faults("color-contrast")

    def _expect_no_faults(self, *rules: str) -> None:
        """Check the page by all rules of axe-core, or by some."""
        check = "rules => axe.run(rules.length ? { runOnly: rules } : {}).then(it => it.violations)"
        found = self.page.evaluate(check, rules)
        assert found == [], [(one["id"], one["nodes"][0]["html"]) for one in found]

    def tab_through(self, names: str) -> None:
        """Press Tab until an element with the first of these names has the focus, then the next,
        and so on.
        """
        for name in names.split(","):
            for _ in range(60):
                self.page.keyboard.press("Tab")
                if name in self.page.evaluate(FOCUSED):
                    break
            assert name in self.page.evaluate(FOCUSED), f"Tab does not reach {name}"

    def _check(self, is_right: bool, text: str) -> None:
        if not is_right:
            self.faults.append(text)
