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
MAX_CALLS = 8  # that are made at the same time, each on its own connection


def printable(text: str) -> str:
    """Return a text with a question mark for each character that could control the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


class ApiCallError(click.ClickException):
    """The API refused a call, or could not be reached. `status` is the status code, or 0 if the API
    could not be reached.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(printable(message))
        self.status = status


def make_pool(url: str) -> urllib3.PoolManager:
    """Return a pool of connections to a URL, directly or through the proxy that HTTPS_PROXY names.

    The proxy is used for https URLs only, with CONNECT, so that it sees neither the key nor the
    content of calls. The proxy is not used for a loopback host or a host that NO_PROXY names.
    HTTP_PROXY is ignored. Raise ClickException if HTTPS_PROXY is not the URL of a proxy.
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
        # Without user name and password, because errors of urllib3 show the URL.
        address = parsed._replace(auth=None, path=None).url
        return urllib3.ProxyManager(address, proxy_headers=headers, **options)
    except urllib3.exceptions.HTTPError:
        message = "HTTPS_PROXY must be the URL of a proxy, such as http://proxy.example:3128"
        raise click.ClickException(message) from None


def is_loopback(host: str) -> bool:
    """Return whether the host of a URL is a loopback address or a name under localhost."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Api:
    """The HTTP API at TRIGGERS_URL, which is called with the key in TRIGGERS_API_KEY.

    Calls that are answered with 429 or 503 are repeated after `Retry-After`, at most 10 s. The URL
    is printed on standard error. Raise ClickException if one of the variables is missing or
    unusable, or if the variable STAGE is set and names another stage than the API's.
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
        """Make a call; return the status code, the JSON object (empty for 204) and the headers of
        the response. Raise ApiCallError if there is no response, or if it is not JSON.

        :param read_retries: How often the call is repeated if its response is lost; 0: never.
        :param headers: Headers in addition to the authorization, which they may replace.
        :param options: Keyword arguments of urllib3's `request`.
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
        """Make a call; return the JSON object and the headers of the response. Raise ApiCallError
        unless the status is 2xx.

        :param options: Keyword arguments of `request`.
        """
        status, content, headers = self.request(method, path, **options)
        check(status, content)
        return content, headers

    def get(self, path: str, item_id: str, **query: str) -> Json:
        """Return an event or a subscription; raise ApiCallError if there is none with this id."""
        item, _ = self.call("GET", f"{path}/{quote(item_id, safe='')}", fields=query)
        return item

    def post_event(self, body: bytes, idempotency_key: str, **headers: str) -> tuple[Json, bool]:
        """Post an event; return the event, and whether the API had answered the same request
        before.

        :param body: The event as JSON.
        """
        headers["Content-Type"] = "application/json"
        headers["Idempotency-Key"] = idempotency_key
        event, answered = self.call("POST", "/events", body=body, headers=headers)
        return event, answered.get("Idempotency-Replayed") == "true"

    def list_all(self, path: str, **query: str | None) -> Iterator[Json]:
        """Yield the events or subscriptions of all pages of a list.

        :param path: `/events` or `/subscriptions`.
        :param query: Parameters of the list; None leaves a parameter out.
        """
        with Console(stderr=True).status("listing"):
            for page in self.pages(path, **query):
                yield from page[path.removeprefix("/")]

    def pages(self, path: str, **query: str | None) -> Iterator[Json]:
        """Yield all pages of a list.

        :param query: Parameters of the list; None leaves a parameter out.
        """
        fields = {name: value for name, value in query.items() if value}
        while True:
            page, _ = self.call("GET", path, fields=fields)
            yield page
            if not page.get("next_cursor"):
                return
            fields["cursor"] = page["next_cursor"]


def check(status: int, content: Json) -> None:
    """Raise ApiCallError with the detail of a response unless its status is 2xx."""
    if 200 <= status < 300:
        return
    message = f"{status}: {content.get('detail') or content.get('message')}"
    if status in (401, 403):
        message += " (check TRIGGERS_URL and TRIGGERS_API_KEY)"
    raise ApiCallError(status, message)
