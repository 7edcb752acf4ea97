"""The AWS of `make run`: moto in a process of its own, or the AWS that `AWS_ENDPOINT_URL` names."""

import atexit
import contextlib
import json
import logging
import os
import subprocess
import sys
from threading import Lock, Thread
from typing import Any

import boto3
from botocore.config import Config

from chalicelib.infra.parsing import Json
from tools.stage import ROOT, read_template

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
REGION = "us-east-1"
# The variable that names each queue, by the queue's name in resources.json. The dead letter queue
# is first, because the redrive policies of the others name it.
SETTINGS = {
    "InboxDLQ": "INBOX_DLQ_URL",
    "InboxQueue": "INBOX_QUEUE_URL",
    "SlowQueue": "SLOW_QUEUE_URL",
}


def use(url: str) -> None:
    """Set the environment so that boto3 uses the AWS at a local URL, and ignores the user's
    profile, endpoints, credentials and proxy.
    """
    for name in list(os.environ):
        if name.startswith("AWS_"):
            del os.environ[name]
    os.environ.update(
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_REGION=REGION,
        AWS_DEFAULT_REGION=REGION,
        AWS_ENDPOINT_URL=url,
        no_proxy="*",
        NO_PROXY="*",
        **CREDENTIALS,
    )


def complete_given() -> None:
    """Set credentials and a region, which emulators require, if the user has none."""
    # Without credentials, boto3 would try for seconds to get some from the metadata of EC2.
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    session = boto3.Session()
    if session.get_credentials() is None:
        os.environ.update(CREDENTIALS)
    if session.region_name is None:
        os.environ["AWS_DEFAULT_REGION"] = REGION


def ensure(stage: str) -> dict[str, str]:
    """Create the table and the queues of a stage unless they exist. Return the environment
    variables that name them, with their values.

    This does not use CloudFormation, because some emulators lack it or need more packages for it,
    and because a stack would not adopt existing resources.
    """
    resources = read_template(stage)["Resources"]
    # One attempt, so that a closed port is reported at once.
    config = Config(connect_timeout=3, retries={"total_max_attempts": 1})
    table = resources["EventsTable"]["Properties"]
    _ensure_table(table, boto3.client("dynamodb", config=config))
    variables = {"EVENTS_TABLE_NAME": table["TableName"]}
    sqs = boto3.client("sqs", config=config)
    for logical_id, variable in SETTINGS.items():
        queue = resources[logical_id]["Properties"]
        # SETTINGS begins with the dead letter queue, which the policies of the others name.
        dlq_url = variables.get("INBOX_DLQ_URL")
        variables[variable] = _ensure_queue(queue, dlq_url, sqs)
    return variables


def _ensure_table(table: Json, dynamodb: Any) -> None:
    """Create a table with its indexes and its TTL unless it exists.

    :param table: The properties of the table in resources.json.
    """
    name = table["TableName"]
    keys = (
        "TableName",
        "BillingMode",
        "AttributeDefinitions",
        "KeySchema",
        "GlobalSecondaryIndexes",
    )
    try:
        dynamodb.create_table(**{key: table[key] for key in keys})
    except dynamodb.exceptions.ResourceInUseException:
        return
    dynamodb.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1})
    dynamodb.update_time_to_live(
        TableName=name, TimeToLiveSpecification=table["TimeToLiveSpecification"]
    )


def _ensure_queue(queue: Json, dlq_url: str | None, sqs: Any) -> str:
    """Create a queue unless it exists, and return its URL.

    :param queue: The properties of the queue in resources.json.
    :param dlq_url: The URL of the dead letter queue, for a queue with a redrive policy; None for
        the dead letter queue itself.
    """
    name = queue["QueueName"]
    try:
        return str(sqs.get_queue_url(QueueName=name)["QueueUrl"])
    except sqs.exceptions.QueueDoesNotExist:
        pass
    # Numbers and booleans are attributes of SQS as they are, but written as text: 30, true. Other
    # properties are the name, the tags and the redrive policy.
    attributes = {key: str(value).lower() for key, value in queue.items() if isinstance(value, int)}
    if "RedrivePolicy" in queue:
        dlq = sqs.get_queue_attributes(QueueUrl=dlq_url, AttributeNames=["QueueArn"])["Attributes"]
        policy = {**queue["RedrivePolicy"], "deadLetterTargetArn": dlq["QueueArn"]}
        attributes["RedrivePolicy"] = json.dumps(policy)
    return str(sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])


def start_moto() -> str:
    """Start moto in a process of its own, and return its URL. The process of moto ends with this
    process, even if this process is killed: it ends when its standard input is closed.
    """
    command = [sys.executable, "-m", "tools.local_aws"]
    # In a session of its own, the process does not get the Ctrl-C of this process.
    options: Json = {"cwd": ROOT, "text": True, "start_new_session": True}
    moto = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)  # noqa: S603
    atexit.register(moto.communicate)  # holds a reference, which keeps the pipes open
    lines = iter(moto.stdout or ())  # never None, since it is a pipe
    url = next(lines)  # moto prints its URL once it listens
    return url.strip()


def serve_moto() -> None:
    """Serve moto on a free loopback port, and print its URL, until standard input ends."""
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    for name in ("moto", "werkzeug"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    moto = DomainDispatcherApplication(create_backend_app)
    lock = Lock()

    def serve(environ: Json, start_response: Any) -> Any:
        """Serve one request at a time, except long polls: moto makes conditional writes and
        deletions in two steps.
        """
        is_poll = environ.get("HTTP_X_AMZ_TARGET", "").endswith(".ReceiveMessage")
        with contextlib.nullcontext() if is_poll else lock:
            return moto(environ, start_response)

    server = make_server(
        "127.0.0.1",
        0,
        serve,
        threaded=True,
        request_handler=MotoRequestHandler,
    )
    Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve_moto()
