"""A webhook receiver for trying things out: it shows what is pushed, and fails when told to.

`POST /fail?status=503&times=2` makes the next two deliveries fail; `times=0` ends that.
"""

import json
import secrets
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit


class Receiver(ThreadingHTTPServer):
    """Listen on a free loopback port. `show` is called with the event id and one line for each delivery."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, show: Callable[[str, str], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.show = show
        self.failures: list[int] = []  # status codes of the next responses
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.hook_path = f"/hooks/{secrets.token_urlsafe(16)}"


class Handler(BaseHTTPRequestHandler):
    """One connection to the receiver."""

    server: Receiver
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        status = 404
        if url.path == self.server.hook_path:
            status = self.server.failures.pop() if self.server.failures else 200
            event = json.loads(body)
            payload = json.dumps(event["payload"], ensure_ascii=False)
            self.server.show(event["event_id"], f"received     responded {status}: {payload}")
        elif url.path == "/fail":
            query = {"status": "503", "times": "1"} | dict(parse_qsl(url.query))
            self.server.failures = [int(query["status"])] * int(query["times"])
            status = 200
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass
