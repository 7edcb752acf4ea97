"""The webhook receiver of `make run`: it shows pushes, checks their signatures, and can be made to
fail.

`POST /fail?status=503&times=2` makes the next two deliveries fail, and `times=0` makes deliveries
succeed again. Any GET shows the latest deliveries.
"""

import hmac
import json
import logging
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable
from threading import Thread

from werkzeug import Request, Response
from werkzeug.datastructures import Headers
from werkzeug.serving import make_server

from chalicelib import deps as services
from chalicelib.core.http_push import signature
from chalicelib.settings import decode_secret
from tools.export import read_all


def signature_verdict(headers: Headers, body: bytes) -> str:
    """Return `signature ok`, `signature wrong` or `not signed` for a push; raise KeyError or
    ValueError if a header is missing or malformed.

    A push of an event is signed with each of the stage's signing secrets, and a push of a copy (an
    event made for one subscription) with the secrets of the subscription. One right signature is
    enough.
    """
    if "webhook-signature" not in headers:
        return "not signed"
    current = services.get()
    secrets = [*current.settings.signing_secrets]
    event_id = headers["webhook-id"]
    is_copy = event_id.startswith("cpy_")
    if is_copy:
        # The secrets of all subscriptions are tried: a test push is not stored, so its subscription
        # is not known.
        secrets.clear()
        for subscription in read_all(current.subscriptions):
            texts = subscription.secrets(current.clock())
            secrets += [decode_secret(text) for text in texts]
    timestamp = int(headers["webhook-timestamp"])
    expected_signatures = [signature([secret], event_id, timestamp, body) for secret in secrets]
    for given_signature in headers["webhook-signature"].split():
        for expected in expected_signatures:
            if hmac.compare_digest(expected, given_signature):
                return "signature ok"
    return "signature wrong"


HOST = "127.0.0.1"
PORT = 9000  # the README's example uses it


def _listen() -> socket.socket:
    """Return a socket that listens on PORT or, if PORT is in use, on a free port."""
    try:
        return socket.create_server((HOST, PORT))
    except OSError:
        return socket.create_server((HOST, 0))


class Receiver:
    """A webhook receiver on a loopback port. `url` is the URL of the server, and `hook_url` is the
    webhook URL to which pushes are posted.
    """

    def __init__(self, show: Callable[[str, str], None]) -> None:
        """Start the server in a daemon thread.

        :param show: A function that is called for each delivery, with the event's id and a text.
        """
        self._show = show
        # The status codes of the next responses to pushes; empty: they succeed, with 200.
        self._failures: deque[int] = deque()
        # A line for each of the latest pushes.
        self._deliveries: deque[str] = deque(maxlen=50)
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        with _listen() as listener:  # the server makes a socket of its own from this one
            server = make_server(
                HOST,
                0,
                Request.application(self._respond),
                threaded=True,
                fd=listener.fileno(),
            )
        self.url = f"http://{HOST}:{server.port}"
        self._hook_path = f"/hooks/{secrets.token_urlsafe(16)}"
        self.hook_url = self.url + self._hook_path
        Thread(target=server.serve_forever, name="receiver", daemon=True).start()

    def _respond(self, request: Request) -> Response:
        """Return the response to a request:

        - a GET of any path: the latest pushes, a line for each
        - a push, which is a POST to the path of the webhook or to `/`: 200, or the status code of
          the next failure
        - a POST to `/fail?status=503&times=2`: the next two pushes will fail with 503
        - any other request: 404; and 400 if a request is malformed
        """
        try:
            if request.method == "GET":
                return Response("\n".join(self._deliveries or ["no delivery yet"]) + "\n")
            if request.path in (self._hook_path, "/"):
                return Response(status=self._receive(request.headers, request.get_data()))
            if request.path == "/fail":
                status = int(request.args.get("status", 503))
                times = int(request.args.get("times", 1))  # 0: pushes succeed again
                self._failures = deque([status] * times)
                text = f"responding {status} to the next {times}\n"
                return Response(text if times else "responding 200\n")
        except (ValueError, AttributeError, KeyError, RecursionError) as error:
            return Response(f"malformed request: {error!r}\n", 400)
        return Response("post to the webhook URL, or to /fail?status=503&times=2\n", 404)

    def _receive(self, headers: Headers, body: bytes) -> int:
        """Show a push, and return the status code of the response: that of the next failure, or
        200. Raise KeyError, AttributeError or ValueError if the push is malformed.
        """
        event_id = headers["webhook-id"]
        # The body is either the whole event or, as a subscription may ask for, its payload alone.
        payload = json.loads(body)
        if payload.get("event_id") == event_id:
            payload = payload["payload"]
        shown_payload = json.dumps(payload, ensure_ascii=False)
        verdict = signature_verdict(headers, body)
        status = self._failures.pop() if self._failures else 200
        text = f"responded {status}, {verdict}: {shown_payload}"
        self._show(event_id, f"received     {text}")
        at = time.strftime("%H:%M:%S")
        self._deliveries.append(f"{at}  {event_id}  {text}")
        return status
