"""A tab with the console page, in Chromium."""

import json
import os
from typing import Any

from playwright.sync_api import (
    BrowserContext,
    ConsoleMessage,
    Locator,
    Request,
    Response,
    expect,
)

from tests.support.receiver import Exchange, status
from tests.support.running import Run
from tests.support.world import ROOT

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
# Evaluates to the text and the ARIA label of the element that has the focus.
FOCUSED = (
    "(node => [node.closest('label, a, button, summary')?.textContent, "
    "node.ariaLabel].join())(document.activeElement)"
)


def refuse_copies(exchange: Exchange) -> None:
    """Respond to the push of a copy with 422 and to any other push with 200, with hostile HTML as
    the body.
    """
    is_copy = exchange.request.headers["webhook-id"].startswith("cpy_")
    status(422 if is_copy else 200, body=HOSTILE.encode())(exchange)


class Console:
    """A tab of Chromium for the console page."""

    def __init__(self, context: BrowserContext, system: Run) -> None:
        """Open a tab without a page, and collect the faults of the pages that it will have.

        :param context: The browser context in which the tab is opened.
        :param system: The running system that serves the page.
        """
        self.system = system
        self.origin = f"http://127.0.0.1:{system.port}"
        # Errors and warnings of the page, its requests to other origins, and responses with 403.
        # The list must be empty at the end of a test.
        self.faults: list[str] = []
        context.on("console", self._check_message)
        context.on("weberror", lambda error: self.faults.append(str(error.error)))
        context.on("request", self._check_request)
        context.on("response", self._check_response)
        self.page = context.new_page()

    def go(self, place: str) -> None:
        """Open the page with a fragment, such as `/events`, in its URL."""
        self.page.goto(f"{self.origin}/#{place}")

    def open(self, place: str = "/", key: str = "shop-key") -> None:
        """Open the page with a fragment and an API key in its URL, and expect it to show who is
        signed in.

        :param place: The fragment, such as `/events?status=pending`.
        """
        separator = "&" if "?" in place else "?"
        self.go(f"{place}{separator}key={key}")
        self.text("#who").to_be_visible()

    def text(self, selector: str) -> Any:
        """Return Playwright's assertions about the elements of a CSS selector."""
        return expect(self.page.locator(selector))

    def reads(self, selector: str, text: Any) -> None:
        """Expect the elements of a CSS selector to have exactly these texts, within the time for
        which Playwright waits.

        :param text: The text of the only element, or a list with the text of each element.
        """
        self.text(selector).to_have_text(text)

    def contains(self, selector: str, text: Any) -> None:
        """Expect the text of the element of a CSS selector to contain a text."""
        self.text(selector).to_contain_text(text)

    def shows(self, heading: str) -> None:
        """Expect a heading with this name to be visible."""
        self.heading(heading).to_be_visible()

    def heading(self, name: str) -> Any:
        """Return Playwright's assertions about the heading with a name."""
        return expect(self.page.get_by_role("heading", name=name))

    def copied(self, name: str) -> str:
        """Click the button `Copy <name>`; return the text that it copies to the clipboard."""
        self.click(f"Copy {name}")
        self.reads("#announcement", "Copied")
        return str(self.page.evaluate("navigator.clipboard.readText()"))

    def button(self, name: str, *, exact: bool = False) -> Locator:
        """Return the button whose name contains a text or, with `exact`, is this text."""
        return self.page.get_by_role("button", name=name, exact=exact)

    def click(self, button: str, *, exact: bool = False) -> None:
        """Click the button whose name contains a text or, with `exact`, is this text."""
        self.button(button, exact=exact).click()

    def follow(self, link: str) -> None:
        """Click the link whose name contains a text."""
        self.page.get_by_role("link", name=link).click()

    def unfold(self, text: str) -> None:
        """Click the element that has a text, to unfold what it hides."""
        self.page.get_by_text(text).click()

    def buttons(self) -> list[str]:
        """Return the first line of the text of each visible button; a count is on the second."""
        visible = [
            button.inner_text()
            for button in self.page.get_by_role("button").all()
            if button.is_visible()
        ]
        return [text.partition("\n")[0] for text in visible]

    def row(self, event: dict[str, Any]) -> Locator:
        """Return the link to an event in the list of events.

        :param event: The event as the API returns it.
        """
        return self.page.locator(f"#rows a[href='#/events/{event['event_id']}']")

    def api(self, method: str, path: str, **body: Any) -> Any:
        """Call the API without the page; return the JSON of the response.

        :param body: The members of the JSON object in the request.
        """
        _status, _headers, content = self.system.call(method, path, json.dumps(body))
        return json.loads(content)

    def token(self) -> str:
        """Return a new token of the tenant `acme`."""
        return str(self.api("POST", "/tokens", tenant="acme")["token"])

    def subscribe(self, url: str, **members: Any) -> Any:
        """Create a subscription by the API, and return it.

        :param url: Its target URL.
        :param members: Other members of the request.
        """
        return self.api("POST", "/subscriptions", target_url=url, **members)

    def post(self, event_type: str, **members: Any) -> Any:
        """Post an event by the API; return the JSON of the response.

        :param members: Other members of the request. A payload or metadata among them replaces the
            payload or metadata that is sent otherwise.
        """
        sent = {"payload": {"order_id": "12345"}, "metadata": {"source": "shop"}, **members}
        return self.api("POST", "/events", event_type=event_type, **sent)

    def pending(self, query: str = "") -> Any:
        """Return the first page of pending events from the API.

        :param query: More parameters, such as `&tenant=acme`.
        """
        return self.api("GET", f"/events?status=pending{query}")["events"]

    def find(self, text: str) -> None:
        """Enter a text into the field `Find by id or subject`, and press Enter."""
        self.page.get_by_label("Find by id or subject").fill(text)
        self.page.keyboard.press("Enter")

    def press(self, name: str, confirmation: str = "") -> None:
        """Click a button, and confirm the dialog that it opens.

        :param confirmation: The name of the button in the dialog; "": it has the same name.
        """
        self.click(name)
        self.page.get_by_role("dialog").get_by_role("button", name=confirmation or name).click()

    def forgive(self, text: str) -> None:
        """Expect that there is at least one fault, and that each fault contains a text; delete all
        faults.
        """
        assert self.faults
        assert all(text in fault for fault in self.faults), self.faults
        self.faults.clear()

    def check_looks(self, name: str, axe: str) -> None:
        """Check that the page is not wider than the window, and that axe-core, which tests
        accessibility, finds no fault: by all of its rules in light colors, and by the rule for
        contrast in dark colors.

        If the environment variable PICTURES is set, store a screenshot in build/screenshots.

        :param name: The name of the screenshot.
        :param axe: The source of axe-core.
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
        """Run axe-core on the page, and expect that it finds no violation of its rules. The error
        has the name of each violated rule and the first element that violates it.

        :param rules: The names of the rules to check; without any, all rules are checked.
        """
        run_axe = (
            "rules => axe.run(rules.length ? { runOnly: rules } : {})"
            ".then(results => results.violations)"
        )
        violations = self.page.evaluate(run_axe, rules)
        assert violations == [], [(rule["id"], rule["nodes"][0]["html"]) for rule in violations]

    def tab_through(self, names: str) -> None:
        """Press Tab until an element with the first name has the focus, then until an element with
        the second name has it, and so on. Raise AssertionError if an element does not get the focus
        after pressing Tab 60 times.

        :param names: The texts or ARIA labels of the elements, or parts of them, separated by
            commas.
        """
        for name in names.split(","):
            for _ in range(60):
                self.page.keyboard.press("Tab")
                # The text and the ARIA label of the element that has the focus.
                focused = self.page.evaluate(FOCUSED)
                if name in focused:
                    break
            assert name in focused, f"Tab does not reach {name}"

    def _check_message(self, message: ConsoleMessage) -> None:
        """Add an error or a warning in the browser's console to `faults`."""
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def _check_request(self, request: Request) -> None:
        """Add the URL of a request to another origin to `faults`. A data URL has no origin."""
        if not request.url.startswith((f"{self.origin}/", "data:")):
            self.faults.append(request.url)

    def _check_response(self, response: Response) -> None:
        """Add the URL of a response with 403 to `faults`: the page should not make calls that the
        API key may not make.
        """
        if response.status == 403:
            self.faults.append(f"403: {response.url}")
