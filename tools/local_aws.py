"""The AWS of `make run`: moto in a process beside it, or the one that `AWS_ENDPOINT_URL` names."""

import atexit
import contextlib
import heapq
import io
import itertools
import json
import logging
import os
import subprocess
import sys
import time
import uuid
from threading import Lock, Thread
from typing import Any

import boto3
from botocore.config import Config

from tools.resources import ROOT, read_template

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
REGION = "us-east-1"
ROOM = {"ReceiveMessage": 10, "GetQueueAttributes": sys.maxsize}  # for messages that moto gets before
DELAYED_ROOM = 3  # that of a message that had a delay


def use(url: str) -> None:
    """Point this process at a local AWS; no profile, endpoint or credentials of the user are used."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull)
    os.environ |= {**CREDENTIALS, "AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": url}
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


def ensure(stage: str) -> dict[str, str]:
    """Create the table and the queues of a stage where they are missing; return the variables that name them."""
    template = read_template(stage)["Resources"]
    config = Config(connect_timeout=3, retries={"total_max_attempts": 1})  # a closed port is reported at once
    dynamodb, sqs = boto3.client("dynamodb", config=config), boto3.client("sqs", config=config)
    table = template["EventsTable"]["Properties"]
    name = {"TableName": table["TableName"]}
    with contextlib.suppress(dynamodb.exceptions.ResourceInUseException):
        keys = ("BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
        dynamodb.create_table(**name, **{key: table[key] for key in keys})
        dynamodb.get_waiter("table_exists").wait(**name, WaiterConfig={"Delay": 1})
        dynamodb.update_time_to_live(**name, TimeToLiveSpecification=table["TimeToLiveSpecification"])
    urls = {}
    for queue in ("InboxDLQ", "InboxQueue"):
        properties = template[queue]["Properties"]
        try:
            urls[queue] = sqs.get_queue_url(QueueName=properties["QueueName"])["QueueUrl"]
        except sqs.exceptions.QueueDoesNotExist:
            attributes = {key: str(value).lower() for key, value in properties.items() if isinstance(value, int)}
            if policy := properties.get("RedrivePolicy"):
                dlq = sqs.get_queue_attributes(QueueUrl=urls["InboxDLQ"], AttributeNames=["QueueArn"])["Attributes"]
                attributes["RedrivePolicy"] = json.dumps({**policy, "deadLetterTargetArn": dlq["QueueArn"]})
            urls[queue] = sqs.create_queue(QueueName=properties["QueueName"], Attributes=attributes)["QueueUrl"]
    return {
        "EVENTS_TABLE_NAME": table["TableName"],
        "INBOX_QUEUE_URL": urls["InboxQueue"],
        "INBOX_DLQ_URL": urls["InboxDLQ"],
    }


def start_moto() -> str:
    """Start moto in a process of its own, which ends with this one, however that ends; return its URL."""
    command = [sys.executable, "-m", "tools.local_aws"]
    options: dict[str, Any] = {"cwd": ROOT, "text": True, "start_new_session": True}  # Ctrl-C does not reach it
    moto = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)  # noqa: S603
    atexit.register(moto.communicate)  # keeps the pipes open
    return next(iter(moto.stdout or ())).strip()


def serve_moto() -> None:
    """Serve moto on a free loopback port, and print its URL, until standard input ends."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    for name in ("moto", "werkzeug"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    moto = DomainDispatcherApplication(create_backend_app)
    lock, turns = Lock(), itertools.count()
    waiting: list[tuple[float, int, int, Any]] = []  # when they are due, or 0; in turn; how many messages; requests

    def hold(environ: dict[str, Any]) -> dict[str, Any]:
        """Keep a request to send messages, which have one delay; return what SQS answers."""
        request = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        entries = request.get("Entries", [request])
        delay_seconds = max(entry.pop("DelaySeconds", 0) for entry in entries)
        body = json.dumps(request).encode()
        environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        due_at = time.time() + delay_seconds if delay_seconds else 0.0
        heapq.heappush(waiting, (due_at, next(turns), len(entries), environ))
        sent = [{"Id": entry.get("Id"), "MessageId": str(uuid.uuid4())} for entry in entries]
        return {"Successful": sent} if "Entries" in request else sent[0]

    def serve(environ: dict[str, Any], start_response: Any) -> Any:
        """Serve one request at a time, except long polls: moto makes conditional writes and deletions in two steps.

        It counts its messages at each call, so that it gets them when somebody receives or counts them: those without a
        delay first, then few of the others, because retries for a dead receiver must not slow down the others.
        """
        operation = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        receives = operation == "ReceiveMessage"
        with lock:
            if operation.startswith("SendMessage"):
                start_response("200 OK", [("Content-Type", "application/x-amz-json-1.0")])
                return [json.dumps(hold(environ)).encode()]
            room, due_by = ROOM.get(operation, 0), time.time() if receives else 0.0
            while waiting and room > 0 and waiting[0][0] <= due_by:
                due_at, _, size, request = heapq.heappop(waiting)
                room -= DELAYED_ROOM * size if due_at else size
                moto(request, lambda *_: None)
            if not receives:
                return moto(environ, start_response)
        return moto(environ, start_response)

    server = make_server("127.0.0.1", 0, serve, threaded=True, request_handler=MotoRequestHandler)
    Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve_moto()
