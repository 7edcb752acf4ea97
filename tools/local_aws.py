"""The AWS of `make run`: moto inside this process, or the one that `AWS_ENDPOINT_URL` names."""

import logging
import os
import warnings
from threading import Lock, Thread
from typing import Any

import boto3

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
REGION = "us-east-1"


def embed() -> None:
    """Start moto and point this process at it; no profile, endpoint or credentials of the user are used."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull)
    os.environ |= {**CREDENTIALS, "AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": start_moto()}
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1"]))


def complete_given() -> None:
    """Set the credentials and the region that an emulator needs, where there are none."""
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")  # looking for it takes seconds
    session = boto3.Session()
    if session.get_credentials() is None:
        os.environ |= CREDENTIALS
    if session.region_name is None:
        os.environ["AWS_DEFAULT_REGION"] = os.environ.get("AWS_REGION") or REGION


def start_moto() -> str:
    """Serve moto on a free loopback port until the process ends; return its URL."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    for name in ("moto", "werkzeug"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="moto")  # "AWS::CloudWatch::Alarm is not supported"
    moto = DomainDispatcherApplication(create_backend_app)
    lock = Lock()

    def serve(environ: dict[str, Any], start_response: Any) -> Any:
        """Serve one request at a time, except long polls: moto makes conditional writes and deletions in two steps."""
        if environ.get("HTTP_X_AMZ_TARGET", "").endswith(".ReceiveMessage"):
            return moto(environ, start_response)
        with lock:
            return moto(environ, start_response)

    server = make_server("127.0.0.1", 0, serve, threaded=True, request_handler=MotoRequestHandler)
    Thread(target=server.serve_forever, name="moto", daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"
