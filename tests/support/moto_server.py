"""moto's server in this process: it takes Chalice's API as it is, and can be watched and stopped at."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server


class MotoServer:
    """`seen` is told of every request before it is answered: its method or operation, and its path."""

    def __init__(self) -> None:
        self.seen: Callable[[str, str], None] = lambda operation, path: None
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=MotoRequestHandler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Any:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        if environ["PATH_INFO"].startswith("/restapis") and b'"swagger"' in body:
            body = _as_openapi_3(body)
            environ["CONTENT_LENGTH"] = str(len(body))
        environ["wsgi.input"] = io.BytesIO(body)
        action = body.partition(b"Action=")[2].partition(b"&")[0].decode()
        answer = self._moto(environ, start_response)
        self.seen(action or environ["REQUEST_METHOD"], environ["PATH_INFO"])
        return answer


def _as_openapi_3(body: bytes) -> bytes:
    """Return Chalice's description of the API as moto reads one: AWS takes Swagger 2.0, and asks for no description."""
    document = json.loads(body)
    del document["swagger"]
    document["openapi"] = "3.0.1"
    document["info"]["description"] = ""
    return json.dumps(document).encode()


@contextmanager
def moto_server() -> Iterator[MotoServer]:
    """Serve until the end of the block. moto's memory is the process's own: it is empty at the start."""
    for noisy in ("moto", "werkzeug"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moto = MotoServer()
        thread = Thread(target=moto.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield moto
        finally:
            moto.server.shutdown()
            thread.join()
            moto.server.server_close()
