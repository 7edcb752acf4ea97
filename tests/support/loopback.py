"""The app over HTTP on this machine, by Chalice's local server."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from chalice.config import Config
from chalice.local import ChaliceRequestHandler, ThreadedHTTPServer, create_local_server

import app


class QuietHandler(ChaliceRequestHandler):
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve_app() -> Iterator[int]:
    """Serve the app on a free port of 127.0.0.1 until the end of the block; yield the port.

    Chalice's local server has no settings for what is patched here.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThreadedHTTPServer, "daemon_threads", True)
        patch.setattr(ThreadedHTTPServer, "handle_error", lambda *_: None)  # of clients that leave
        patch.setattr(app.app, "__class__", app.app.__class__)  # the server changes it
        config = Config.create()
        server = create_local_server(app.app, config, "127.0.0.1", 0).server
        server.RequestHandlerClass = functools.partial(
            QuietHandler, app_object=app.app, config=config
        )
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
