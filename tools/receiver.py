"""A webhook receiver for trying things out: it shows what is pushed, and fails when told to.

`POST /fail?status=503&times=2` makes the next two deliveries fail; `times=0` ends that.
"""

import json
import secrets
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from urllib.parse import parse_qsl, urlsplit


class Receiver(ThreadingHTTPServer):
    """Listen on a free loopback port. `show` is called with the event id and one line for each delivery."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, show: Callable[[str, str], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.hook_path = f"/hooks/{secrets.token_urlsafe(16)}"
        self._show = show
        self._lock = Lock()
        self._failures = (503, 0)

    def fail(self, status: int = 503, times: int = 1) -> str:
        """Respond to the next `times` deliveries with `status`."""
        with self._lock:
            self._failures = (status, times)
        return f"the next {times} deliveries get {status}\n"

    def deliver(self, body: bytes) -> int:
        """Show a delivery; return the status code of the response."""
        event = json.loads(body)
        with self._lock:
            status, times = self._failures
            if times:
                self._failures = (status, times - 1)
        status = status if times else 200
        payload = json.dumps(event["payload"], ensure_ascii=False)
        self._show(event["event_id"], f"received     responded {status}: {payload}")
        return status


class Handler(BaseHTTPRequestHandler):
    """One connection to the receiver."""

    server: Receiver
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        try:
            if url.path == self.server.hook_path:
                self._respond(self.server.deliver(body))
            elif url.path == "/fail":
                self._respond(200, self.server.fail(**{name: int(value) for name, value in parse_qsl(url.query)}))
            else:
                self._respond(404)
        except (ValueError, KeyError, TypeError):
            self._respond(400)

    def _respond(self, status: int, text: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass
