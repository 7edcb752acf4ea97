"""Chalice's local server, made to behave towards odd requests and on kept connections.

Routing and the Lambda event stay Chalice's. Only reading a request and writing an answer are ours: Chalice trusts any
length, takes a chunked body for the next request, sends a body on HEAD and echoes credentials on unknown paths.
"""

import contextlib
import functools
import json
import re
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from chalice.app import Chalice
from chalice.config import Config
from chalice.local import ChaliceRequestHandler, LocalDevServer, LocalGateway, ThreadedHTTPServer, create_local_server

from tools.stage import API_STAGE

MAX_HEADER_BYTES = 10_240  # API Gateway: total combined size of header values
MAX_BODY_BYTES = 10 * 1024 * 1024  # API Gateway: payload size


class UnreadableRequestError(Exception):
    """The body cannot be read, so where the next request begins is not known: answer `status` and close."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def create_server(app: Chalice, config: Config, port: int) -> LocalDevServer:
    """Return a server that listens on loopback already; raise OSError when the port is taken."""
    ThreadedHTTPServer.request_queue_size = 128
    server = create_local_server(app, config, "127.0.0.1", port)
    server.server.RequestHandlerClass = functools.partial(Handler, app_object=app, config=config)
    return server


class Gateway(LocalGateway):
    """Leaves OPTIONS to the app, which refuses it. Chalice would answer 200 by itself, though no route has CORS."""

    def _has_user_defined_options_method(self, lambda_event: Any) -> bool:
        return True


class Handler(ChaliceRequestHandler):
    """One connection."""

    path: str
    disable_nagle_algorithm = True
    timeout = 60  # a client that stops in the middle of a request holds a thread no longer than this

    def __init__(self, request: Any, client_address: Any, server: Any, app_object: Chalice, config: Config) -> None:
        self.local_gateway = Gateway(app_object, config)
        BaseHTTPRequestHandler.__init__(self, request, client_address, server)  # Chalice's own makes its own gateway

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):  # the client is gone: nobody to tell
            super().handle()

    def answer(self) -> None:
        self.path = re.sub(f"^/{API_STAGE}(?=/)", "", self.path)  # as on AWS, and as openapi.json says
        try:
            headers, body = self._joined_headers(), self._read_body()
            self.local_gateway.event_converter.create_lambda_event(self.command, self.path, headers)
        except UnreadableRequestError as error:
            self.send_error(error.status, str(error))
            self._linger()
        except ValueError:  # Chalice knows no route
            self._problem(HTTPStatus.NOT_FOUND, "There is nothing at this path.")
        else:
            response = self.local_gateway.handle_request(self.command, self.path, headers, body)
            content = self._handle_binary(response)["body"] or b""
            self._send(response["statusCode"], {**response["headers"], **response["multiValueHeaders"]}, content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = do_OPTIONS = answer

    def _joined_headers(self) -> dict[str, str]:
        """Return each header once: lines of one name are one list (RFC 9110, section 5.3)."""
        joined: dict[str, list[str]] = {}
        for name, value in self.headers.items():
            joined.setdefault(name.lower(), []).append(value.strip())
        if sum(len(name) + len(value) for name, values in joined.items() for value in values) > MAX_HEADER_BYTES:
            detail = f"The headers may have {MAX_HEADER_BYTES} bytes at most."
            raise UnreadableRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
        return {name: ", ".join(values) for name, values in joined.items()}

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked" and "Content-Length" not in self.headers:
            return self._read_chunks()
        if "Transfer-Encoding" in self.headers:
            raise UnreadableRequestError(HTTPStatus.BAD_REQUEST, "Send a Content-Length, or chunks alone.")
        length = self.headers.get("Content-Length", "0").strip()
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise UnreadableRequestError(HTTPStatus.BAD_REQUEST, "Content-Length must be a number.")
        return self._read_exactly(int(length), MAX_BODY_BYTES)

    def _read_chunks(self) -> bytes:
        body = b""
        while True:
            size = self.rfile.readline(1024).split(b";")[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", size):
                raise UnreadableRequestError(HTTPStatus.BAD_REQUEST, "A chunk has no size.")
            if int(size, 16) == 0:
                break
            body += self._read_exactly(int(size, 16), MAX_BODY_BYTES - len(body))
            self.rfile.readline(1024)
        while self.rfile.readline(65536).strip():
            pass  # a trailer
        return body

    def _read_exactly(self, length: int, most: int) -> bytes:
        if length > most:
            detail = f"The body may have {MAX_BODY_BYTES} bytes at most."
            raise UnreadableRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
        content: bytes = self.rfile.read(length)
        if len(content) < length:
            raise ConnectionAbortedError
        return content

    def _linger(self) -> None:
        """Take for a moment what still comes: closing on unread bytes would take the answer back with a reset."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(1)
        for _ in range(1024):
            if not self.rfile.read1(65536):
                break

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with a problem and close. Also what the base class calls when it cannot parse a request."""
        self.close_connection = True
        self._problem(HTTPStatus(code), message or HTTPStatus(code).description or "", Connection="close")

    def _problem(self, status: HTTPStatus, detail: str, **headers: str) -> None:
        problem = {"type": "about:blank", "title": status.phrase, "status": status, "detail": detail}
        self._send(status, {"Content-Type": "application/problem+json", **headers}, json.dumps(problem))

    def _send(self, status: int, headers: dict[str, Any], body: str | bytes) -> None:
        content = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        if status != HTTPStatus.NO_CONTENT:  # RFC 9110, section 8.6
            self.send_header("Content-Length", str(len(content)))
        self._send_headers(headers)
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass
