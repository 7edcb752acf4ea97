"""The client of the HTTP API that the operator commands use."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import click
import urllib3
from rich.console import Console

RETRY = urllib3.Retry(
    4, status_forcelist=(429, 503), allowed_methods=None, backoff_factor=0.2, raise_on_status=False
)


def printable(text: str) -> str:
    """Replace characters that could control the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


class ApiCallError(click.ClickException):
    """The API refused a call with `status`, or could not be reached (0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(printable(message))
        self.status = status


class Api:
    """The HTTP API that the environment names. Calls are repeated on 429 and 503 after Retry-After,
    10 s at most.
    """

    def __init__(self) -> None:
        self.url, key = (
            os.environ.get(name, "").strip() for name in ("TRIGGERS_URL", "TRIGGERS_API_KEY")
        )
        if not re.fullmatch(
            r"(https://[^/?#@]+|http://(localhost|127\.0\.0\.1)(:\d+)?)(/[^?#]*)?", self.url
        ):
            raise click.ClickException(
                "set TRIGGERS_URL to the https URL of the API (http only for this machine)"
            )
        if not (key and key.isascii() and key.isprintable()):
            raise click.ClickException("set TRIGGERS_API_KEY to an API key")
        self._headers = {"Authorization": f"Bearer {key}", "User-Agent": "triggers-api-ops"}
        self._pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=5, read=35))

    def request(
        self,
        method: str,
        path: str,
        *,
        read_retries: int = 4,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Return status, JSON object (empty for 204) and headers; raise ApiCallError without a
        response of JSON.
        """
        retries = RETRY.new(read=read_retries, retry_after_max=10)
        options |= {
            "headers": self._headers | (headers or {}),
            "retries": retries,
            "redirect": False,
        }
        try:
            response = self._pool.request(method, self.url.rstrip("/") + path, **options)
            content = {} if response.status == 204 else dict(response.json())
        except urllib3.exceptions.HTTPError as error:
            raise ApiCallError(
                0, f"cannot reach {self.url}: {getattr(error, 'reason', error)}"
            ) from error
        except (ValueError, TypeError):
            raise ApiCallError(
                response.status, f"{response.status} without JSON: check TRIGGERS_URL"
            ) from None
        return response.status, content, response.headers

    def call(
        self, method: str, path: str, **options: Any
    ) -> tuple[dict[str, Any], Mapping[str, str]]:
        """Return content and headers of a 2xx response; raise ApiCallError."""
        status, content, headers = self.request(method, path, **options)
        if not 200 <= status < 300:
            hint = " (check TRIGGERS_URL and TRIGGERS_API_KEY)" if status in (401, 403) else ""
            raise ApiCallError(
                status, f"{status}: {content.get('detail') or content.get('message')}{hint}"
            )
        return content, headers

    def get(self, path: str, item_id: str) -> dict[str, Any]:
        return self.call("GET", f"{path}/{quote(item_id, safe='')}")[0]

    def post_event(
        self, body: bytes, idempotency_key: str, **headers: str
    ) -> tuple[dict[str, Any], bool]:
        """Return the event, and whether the same request had been sent before."""
        headers |= {"Content-Type": "application/json", "Idempotency-Key": idempotency_key}
        event, answered = self.call("POST", "/events", body=body, headers=headers)
        return event, answered.get("Idempotency-Replayed") == "true"

    def list_all(self, path: str, **query: str | None) -> Iterator[dict[str, Any]]:
        """Yield what all pages of GET /events or GET /subscriptions have."""
        fields = {name: value for name, value in query.items() if value}
        with Console(stderr=True).status("listing"):
            while True:
                page, _ = self.call("GET", path, fields=fields)
                yield from page[path.removeprefix("/")]
                if not page.get("next_cursor"):
                    return
                fields["cursor"] = page["next_cursor"]
