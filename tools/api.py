"""The client of the HTTP API that the operator commands use."""

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
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
        # An IPv6 address is in brackets in a URL.
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class ApiResponse(NamedTuple):
    """A response of the API."""

    # The status code.
    status: int
    # The JSON object; empty for the status 204.
    content: Json
    headers: Mapping[str, str]


class PostedEvent(NamedTuple):
    """The result of posting an event."""

    event: Json
    # Whether the API had handled an earlier request with the same idempotency key, and repeated its
    # response.
    is_repeated: bool


class Api:
    """The HTTP API at TRIGGERS_URL, which is called with the key in TRIGGERS_API_KEY.

    Calls that are answered with 429 or 503 are repeated after `Retry-After`, at most 10 s. The URL
    is printed on standard error. Raise ClickException if one of the variables is missing or
    unusable, or if the variable STAGE is set and names another stage than the API's.
    """

    def __init__(self) -> None:
        """Read the URL and the key from the environment, and make the connection pool. If the
        variable STAGE is set, ask the API for its stage, and compare the two.

        :raises ClickException: If TRIGGERS_URL or TRIGGERS_API_KEY is missing or unusable, or if
            the API is of another stage. ApiCallError, a subclass, if the API cannot be called.
        """
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
            health = self.call("GET", "/health").content
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
    ) -> ApiResponse:
        """Make a call, and return its response, whatever its status code is. Raise ApiCallError if
        there is no response, or if its body is not a JSON object. A body of a 204 is empty, and
        returned as an empty object.

        The call is repeated up to four times if no connection can be made, or if the status code is
        429 or 503.

        :param path: The path of the call below TRIGGERS_URL, such as `/events`.
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
            return ApiResponse(204, {}, response.headers)
        try:
            return ApiResponse(response.status, dict(response.json()), response.headers)
        except (ValueError, TypeError):
            message = f"{response.status} without JSON: check TRIGGERS_URL"
            raise ApiCallError(response.status, message) from None

    def call(self, method: str, path: str, **options: Any) -> ApiResponse:
        """Make a call, and return its response. Raise ApiCallError if there is no response, or
        unless its status is 2xx.

        :param path: The path of the call below TRIGGERS_URL, such as `/events`.
        :param options: Keyword arguments of `request`.
        """
        response = self.request(method, path, **options)
        check(response.status, response.content)
        return response

    def get(self, path: str, item_id: str, **query: str) -> Json:
        """Return an event or a subscription; raise ApiCallError if there is none with this id.

        :param path: `/events` or `/subscriptions`.
        :param query: Query parameters of the call.
        """
        return self.call("GET", f"{path}/{quote(item_id, safe='')}", fields=query).content

    def post_event(self, body: bytes, idempotency_key: str, **headers: str) -> PostedEvent:
        """Post an event; return it, and whether the API repeated the response to an earlier request
        with the same key. Raise ApiCallError unless the API accepts the event.

        :param body: The event as JSON.
        :param idempotency_key: A key with which the API recognizes a repeated request.
        :param headers: Other headers of the request, by name.
        """
        headers["Content-Type"] = "application/json"
        headers["Idempotency-Key"] = idempotency_key
        response = self.call("POST", "/events", body=body, headers=headers)
        is_repeated = response.headers.get("Idempotency-Replayed") == "true"
        return PostedEvent(response.content, is_repeated)

    def list_all(self, path: str, **query: str | None) -> Iterator[Json]:
        """Yield the events or subscriptions of all pages of a list. Raise ApiCallError if a call
        fails.

        :param path: `/events` or `/subscriptions`, after which the list's member of a page is named
            (`events`).
        :param query: Query parameters of the list. A parameter that is None or empty is left out.
        """
        with Console(stderr=True).status("listing"):
            for page in self.pages(path, **query):
                yield from page[path.removeprefix("/")]

    def pages(self, path: str, **query: str | None) -> Iterator[Json]:
        """Yield the responses of all pages of a list, as JSON objects. Raise ApiCallError if a call
        fails.

        :param path: The path of the list, such as `/events`.
        :param query: Query parameters of the list. A parameter that is None or empty is left out.
        """
        fields = {name: value for name, value in query.items() if value}
        while True:
            page = self.call("GET", path, fields=fields).content
            yield page
            if not page.get("next_cursor"):
                return
            fields["cursor"] = page["next_cursor"]


def check(status: int, content: Json) -> None:
    """Raise ApiCallError with the detail of a response unless its status is 2xx.

    :param content: The JSON object of the response. Errors of the API have a `detail`, and errors
        of API Gateway a `message`.
    """
    if 200 <= status < 300:
        return
    message = f"{status}: {content.get('detail') or content.get('message')}"
    if status in (401, 403):
        message += " (check TRIGGERS_URL and TRIGGERS_API_KEY)"
    raise ApiCallError(status, message)
