"""An AWS to run on: moto inside this process, or the one that `AWS_ENDPOINT_URL` names.

Nothing of a person's own AWS account is used or reached while moto serves.
"""

import logging
import os
import warnings
from functools import cache
from threading import Lock, Thread
from typing import Any

import boto3
from botocore.config import Config

from chalicelib import aws as calls

DUMMY = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
REGION = "us-east-1"


@cache
def client(service: str, read_timeout_seconds: float = 60) -> Any:
    """Return a client, patient with slow answers (stacks) but not with a closed port."""
    config = Config(connect_timeout=3, read_timeout=read_timeout_seconds, retries={"total_max_attempts": 1})
    return boto3.client(service, config=config)  # type: ignore[call-overload]


def embed() -> None:
    """Start moto on a free loopback port and point this process at it, whatever profile or endpoint is set."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    os.environ |= {**DUMMY, **nothing, "AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": start_moto()}
    # Moto takes seconds where thousands of events are looked through.
    calls.CONFIG = calls.CONFIG.merge(Config(read_timeout=20))
    _keep_from_proxies("127.0.0.1")


def use_given() -> None:
    """Fill in what a client of an emulator needs, where it is missing."""
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")  # nobody answers there, and asking takes seconds
    session = boto3.Session()
    if session.get_credentials() is None:
        os.environ |= DUMMY
    if session.region_name is None:
        os.environ["AWS_DEFAULT_REGION"] = os.environ.get("AWS_REGION") or REGION


def start_moto() -> str:
    """Serve moto on a free loopback port until the process ends; return its URL."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    for noisy in ("moto", "werkzeug"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="moto")  # "AWS::CloudWatch::Alarm is not supported"
    _query_partitions()
    moto = DomainDispatcherApplication(create_backend_app)
    lock = Lock()

    def serve(environ: dict[str, Any], start_response: Any) -> Any:
        """Take DynamoDB requests one at a time: moto checks a condition and writes in two steps."""
        if not environ.get("HTTP_X_AMZ_TARGET", "").startswith("DynamoDB"):
            return moto(environ, start_response)
        with lock:
            return moto(environ, start_response)

    server = make_server("127.0.0.1", 0, serve, threaded=True, request_handler=MotoRequestHandler)
    Thread(target=server.serve_forever, name="moto", daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def _query_partitions() -> None:
    """Give each query of moto its own partition alone: it would sort the whole table, 0.1 s for 6,000 events."""
    from moto.dynamodb.models import table

    moto_table: Any = table.Table
    query = moto_table.query

    def query_partition(whole: Any, *arguments: Any, **options: Any) -> Any:
        if whole.has_range_key:  # not ours; moto keeps its rows in another way
            return query(whole, *arguments, **options)
        [(name, wanted)] = options["hash_key_conditions"]
        rows = [row for row in whole.items.values() if name in row.attrs and row.attrs[name].value == wanted.value]
        partition = object.__new__(moto_table)  # not copy.copy: moto keeps a list of every table made
        partition.__dict__ = {**whole.__dict__, "all_items": lambda: rows}
        return query(partition, *arguments, **options)

    moto_table.query = query_partition


def _keep_from_proxies(host: str) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), host]))
