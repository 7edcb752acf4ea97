"""The client of the HTTP API that the operator commands use."""

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote
from urllib.request import getproxies_environment, proxy_bypass

import click
import urllib3
from rich.console import Console

from chalicelib.infra.parsing import Json

RETRY = urllib3.Retry(
    4, status_forcelist=(429, 503), allowed_methods=None, backoff_factor=0.2, raise_on_status=False
)
MAX_CALLS = 8  # at a time, which keeps as many connections


def printable(text: str) -> str:
    """Replace characters that could control the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


class ApiCallError(click.ClickException):
    """The API refused a call with `status`, or could not be reached (0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(printable(message))
        self.status = status


def make_pool(url: str) -> urllib3.PoolManager:
    """Return the connections to a URL, through the proxy of HTTPS_PROXY where that applies.

    The proxy is used for https URLs only, by CONNECT, so that it sees neither key nor content. It
    is not used for a loopback host or a host that NO_PROXY names, and HTTP_PROXY is ignored. Raises
    ClickException if HTTPS_PROXY is not the URL of a proxy.
    """
    options: Json = {"maxsize": MAX_CALLS, "timeout": urllib3.Timeout(connect=5, read=35)}
    target = urllib3.util.parse_url(url)
    proxy = getproxies_environment().get("https", "")
    is_direct = is_loopback(str(target.host)) or proxy_bypass(str(target.host))
    if not proxy or is_direct or target.scheme != "https":
        return urllib3.PoolManager(**options)
    try:
        parsed = urllib3.util.parse_url(proxy if "://" in proxy else f"http://{proxy}")
        headers = urllib3.make_headers(proxy_basic_auth=parsed.auth) if parsed.auth else None
        # Without user name and password: errors of urllib3 repeat the URL.
        address = parsed._replace(auth=None, path=None).url
        return urllib3.ProxyManager(address, proxy_headers=headers, **options)
    except urllib3.exceptions.HTTPError:
        message = "HTTPS_PROXY must be the URL of a proxy, such as http://proxy.example:3128"
        raise click.ClickException(message) from None


def is_loopback(host: str) -> bool:
    """Return whether a host of a URL is this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Api:
    """The HTTP API that the environment names. Calls are repeated on 429 and 503 after Retry-After,
    10 s at most. If the environment has a STAGE, the API must be of that stage. The URL is shown on
    standard error.
    """

    def __init__(self) -> None:
        self.url = os.environ.get("TRIGGERS_URL", "").strip()
        key = os.environ.get("TRIGGERS_API_KEY", "").strip()
        if not re.fullmatch(
            r"(https://[^/?#@]+|http://(localhost|127\.0\.0\.1)(:\d+)?)(/[^?#]*)?", self.url
        ):
            raise click.ClickException(
                "set TRIGGERS_URL to the https URL of the API (http only for this machine)"
            )
        if not (key and key.isascii() and key.isprintable()):
            raise click.ClickException("set TRIGGERS_API_KEY to an API key")
        self._headers = {"Authorization": f"Bearer {key}", "User-Agent": "triggers-api-ops"}
        self._pool = make_pool(self.url)
        click.echo(f"asking {self.url}", err=True)
        stage = os.environ.get("STAGE")
        if stage:
            health, _ = self.call("GET", "/health")
            if health["stage"] != stage:
                raise click.ClickException(
                    f"TRIGGERS_URL is not of {stage}: {printable(str(health))}"
                )

    def request(
        self,
        method: str,
        path: str,
        *,
        read_retries: int = 4,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> tuple[int, Json, Mapping[str, str]]:
        """Return status, JSON object (empty for 204) and headers; raise ApiCallError without a
        response of JSON.
        """
        try:
            response = self._pool.request(
                method,
                self.url.rstrip("/") + path,
                headers={**self._headers, **(headers or {})},
                retries=RETRY.new(read=read_retries, retry_after_max=10),
                redirect=False,
                **options,
            )
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", error)
            raise ApiCallError(0, f"cannot reach {self.url}: {reason}") from error
        if response.status == 204:
            return 204, {}, response.headers
        try:
            return response.status, dict(response.json()), response.headers
        except (ValueError, TypeError):
            message = f"{response.status} without JSON: check TRIGGERS_URL"
            raise ApiCallError(response.status, message) from None

    def call(self, method: str, path: str, **options: Any) -> tuple[Json, Mapping[str, str]]:
        """Return content and headers of a 2xx response; raise ApiCallError."""
        status, content, headers = self.request(method, path, **options)
        check(status, content)
        return content, headers

    def get(self, path: str, item_id: str, **query: str) -> Json:
        item, _ = self.call("GET", f"{path}/{quote(item_id, safe='')}", fields=query)
        return item

    def post_event(self, body: bytes, idempotency_key: str, **headers: str) -> tuple[Json, bool]:
        """Return the event, and whether the same request had been sent before."""
        headers["Content-Type"] = "application/json"
        headers["Idempotency-Key"] = idempotency_key
        event, answered = self.call("POST", "/events", body=body, headers=headers)
        return event, answered.get("Idempotency-Replayed") == "true"

    def list_all(self, path: str, **query: str | None) -> Iterator[Json]:
        """Yield what all pages of GET /events or GET /subscriptions have."""
        with Console(stderr=True).status("listing"):
            for page in self.pages(path, **query):
                yield from page[path.removeprefix("/")]

    def pages(self, path: str, **query: str | None) -> Iterator[Json]:
        """Yield all pages of a list."""
        fields = {name: value for name, value in query.items() if value}
        while True:
            page, _ = self.call("GET", path, fields=fields)
            yield page
            if not page.get("next_cursor"):
                return
            fields["cursor"] = page["next_cursor"]


def check(status: int, content: Json) -> None:
    """Raise ApiCallError unless the status is 2xx."""
    if 200 <= status < 300:
        return
    message = f"{status}: {content.get('detail') or content.get('message')}"
    if status in (401, 403):
        message += " (check TRIGGERS_URL and TRIGGERS_API_KEY)"
    raise ApiCallError(status, message)
