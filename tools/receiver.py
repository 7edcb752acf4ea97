"""A webhook receiver for trying things out: it shows what is pushed, checks signatures, and fails when told to.

`POST /fail?status=503&times=2` makes the next two deliveries fail, and `times=0` ends that. A GET shows the last ones.
"""

import contextlib
import hashlib
import hmac
import json
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from urllib3.exceptions import HTTPError

from chalicelib.push import signature

MAX_DELIVERIES = 50


@dataclass(frozen=True)
class SignatureCheck:
    """Tell whether pushes are signed with `signing_secrets`, and copies with secrets derived from them.

    `call` returns the JSON object at a path of the API, which tells whose copy it is.
    """

    signing_secrets: tuple[bytes, ...]
    call: Callable[[str], dict[str, Any]]

    def verdict(self, headers: Message, event: Mapping[str, Any], body: bytes) -> str:
        """Return what to show about the signature of a push; raise KeyError, TypeError or ValueError if it is none."""
        if not headers["webhook-signature"]:
            return "not signed"
        signing_secrets = self.signing_secrets
        if str(event["event_id"]).startswith("cpy_"):
            try:
                signing_secrets = self._derive(event)
            except (KeyError, HTTPError):
                return "signature not checked: signed with the subscription's own secret"
        timestamp = int(headers["webhook-timestamp"])
        signatures = headers["webhook-signature"].split()
        expected = [signature([secret], headers["webhook-id"], timestamp, body) for secret in signing_secrets]
        is_genuine = any(hmac.compare_digest(one, other) for one in expected for other in signatures)
        return f"signature {'ok' if is_genuine else 'wrong'}"

    def _derive(self, copy: Mapping[str, Any]) -> tuple[bytes, ...]:
        """Return the secrets of the copy's subscription; raise KeyError or HTTPError if it cannot be looked up."""
        # The push of POST /subscriptions/{id}/test is stored nowhere; its payload names the subscription.
        stored = self.call(f"/events/{copy['event_id']}")
        subscription_id = stored.get("subscription_id") or copy["payload"]["subscription_id"]
        created_at = self.call(f"/subscriptions/{subscription_id}")["created_at"]
        name = f"{subscription_id}.{created_at}".encode()
        return tuple(hmac.digest(secret, name, hashlib.sha256) for secret in self.signing_secrets)


class Receiver(ThreadingHTTPServer):
    """Listen on a free loopback port. `show` is called with the event id and one line for each delivery."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, show: Callable[[str, str], None], check: SignatureCheck) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self._show = show
        self._check = check
        self._failures: deque[int] = deque()  # status codes of the next responses
        self.deliveries: deque[str] = deque(maxlen=MAX_DELIVERIES)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.hook_path = f"/hooks/{secrets.token_urlsafe(16)}"

    def receive(self, headers: Message, body: bytes) -> int:
        """Show a push and return the status to respond with; raise ValueError, TypeError or KeyError if it is none."""
        event = json.loads(body)
        payload = json.dumps(event["payload"], ensure_ascii=False)
        verdict = self._check.verdict(headers, event, body)
        status = 200
        with contextlib.suppress(IndexError):
            status = self._failures.pop()
        text = f"responded {status}, {verdict}: {payload}"
        self._show(str(event["event_id"]), f"received     {text}")
        self.deliveries.append(f"{time.strftime('%H:%M:%S')}  {event['event_id']}  {text}")
        return status

    def fail(self, status: int, times: int) -> str:
        """Respond to the next `times` deliveries with `status`, and say so; raise ValueError."""
        if not (200 <= status <= 599 and 0 <= times <= 1000):
            raise ValueError("status must be 200 to 599, times 0 to 1000")
        self._failures = deque([status] * times)
        return f"responding {status} to the next {times}"


class Handler(BaseHTTPRequestHandler):
    """One connection to the receiver."""

    server: Receiver
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client is gone
            super().handle()

    def do_GET(self) -> None:
        self._respond(200, "\n".join(self.server.deliveries) or "nothing was delivered yet")

    def do_POST(self) -> None:
        try:
            url = urlsplit(self.path)
            body = self.rfile.read(max(0, int(self.headers.get("Content-Length", "0"))))
            if url.path == self.server.hook_path:
                self._respond(self.server.receive(self.headers, body))
            elif url.path == "/fail":
                query = {"status": "503", "times": "1"} | dict(parse_qsl(url.query))
                self._respond(200, self.server.fail(int(query["status"]), int(query["times"])))
            else:
                self._respond(404, "post to the webhook URL, or to /fail?status=503&times=2")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            self.close_connection = True  # what follows may be the rest of this request
            self._respond(400, f"not understood: {error!r}")

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _respond(self, status: int, text: str = "") -> None:
        content = f"{text}\n".encode() if text else b""
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
