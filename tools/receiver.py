"""A webhook receiver for trying things out: shows what is pushed, and fails when told to.

`POST /fail?status=503&times=2` makes the next two deliveries fail; `times=0` heals it.
"""

import json
import secrets
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import parse_qs, urlsplit

from tools.screen import Screen


class Receiver(ThreadingHTTPServer):
    """Listens on a free loopback port from the start. The path that takes deliveries cannot be guessed."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, screen: Screen) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.hook_path = f"/hooks/{secrets.token_urlsafe(16)}"
        self._screen = screen
        self._lock = Lock()
        self._failures = (503, 0)
        self._seen: Counter[str] = Counter()

    def start(self) -> None:
        Thread(target=self.serve_forever, name="receiver", daemon=True).start()

    def fail(self, status: int, times: int) -> None:
        """Answer the next `times` deliveries with `status`."""
        with self._lock:
            self._failures = (status, times)

    def deliver(self, body: bytes) -> int:
        """Show a delivery and return the status code to answer it with."""
        try:
            event = json.loads(body)
            event_id, payload = str(event["event_id"]), event["payload"]
        except (ValueError, KeyError, TypeError):
            return 400
        with self._lock:
            status, times = self._failures
            if times:
                self._failures = (status, times - 1)
            else:
                status = 200
            self._seen[event_id] += 1
            nth = self._seen[event_id]
        answered = f"answered {status}" if nth == 1 else f"answered {status}, delivery {nth}"
        text = json.dumps(payload, ensure_ascii=False)
        self._screen.event(event_id, "received", f"{answered}: {text}", cut=True)
        return status


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        if url.path == self.server.hook_path:
            self._answer(self.server.deliver(body))
        elif url.path == "/fail":
            self._answer(*self._fail(url.query))
        else:
            self._answer(404)

    def _fail(self, query: str) -> tuple[int, str]:
        asked = {name: values[-1] for name, values in parse_qs(query).items()}
        try:
            status, times = int(asked.get("status", 503)), int(asked.get("times", 1))
        except ValueError:
            status, times = 0, 0
        if not (200 <= status <= 599 and times >= 0):
            return 400, "status must be 200 to 599, times a number from 0"
        self.server.fail(status, times)
        if not times:
            return 200, "all well again"
        return 200, f"the next {'delivery is' if times == 1 else f'{times} deliveries are'} answered {status}"

    def _answer(self, status: int, text: str = "") -> None:
        body = f"{text}\n".encode() if text else b""
        self.send_response(status)
        if status not in (204, 304):  # RFC 9110, section 8.6: these have no body and no length
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
