"""The app over HTTP on this machine, by Chalice's local server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from chalice.config import Config
from chalice.local import ChaliceRequestHandler, ThreadedHTTPServer, create_local_server

import app


class QuietHandler(ChaliceRequestHandler):
    """A handler that logs nothing, and sends each packet at once."""

    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        """Log nothing."""


@contextmanager
def serve_app() -> Iterator[int]:
    """Serve the app by Chalice's local server, on a free port of 127.0.0.1, until the end of the
    block; yield the port.

    The server is patched, because it has no settings for this: its threads do not keep the process
    alive, and errors that clients cause by closing a connection are ignored.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThreadedHTTPServer, "daemon_threads", True)
        patch.setattr(ThreadedHTTPServer, "handle_error", lambda *_: None)
        # The server changes the class of the app; with this patch, the class is restored.
        patch.setattr(app.app, "__class__", app.app.__class__)
        config = Config.create()
        server = create_local_server(app.app, config, "127.0.0.1", 0).server
        server.RequestHandlerClass = partial(QuietHandler, app_object=app.app, config=config)
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
