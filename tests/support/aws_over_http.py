"""DynamoDB and SQS in memory, over HTTP, for a system in another process.

Moto's server would be too slow for it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from botocore import xform_name
from botocore.exceptions import ClientError

from measure.bench.standin import decode, encode
from tests.support.in_memory_aws import FakeDynamoDB, FakeSQS
from tests.support.receiver import Exchange, Receiver, status


class _DynamoDB(FakeDynamoDB):
    """A table that exists from the beginning."""

    def create_table(self, **table: Any) -> None:
        """Raise the ClientError of DynamoDB for a table that exists."""
        raise ClientError({"Error": {"Code": "ResourceInUseException"}}, "CreateTable")


class _SQS(FakeSQS):
    """Queues that exist as soon as a client looks for them."""

    def get_queue_url(self, *, QueueName: str) -> dict[str, str]:  # noqa: N803
        """Return a response with the URL of a queue, which is created without a DLQ if it is
        missing.
        """
        url = f"https://sqs.test/{QueueName}"
        self.queue(url)
        return {"QueueUrl": url}


@contextmanager
def aws_over_http() -> Iterator[str]:
    """Serve DynamoDB, with its table, and SQS, with any queue, until the end of the block; yield
    the URL of both.
    """
    # By the part of X-Amz-Target before the dot.
    services = {"DynamoDB_20120810": _DynamoDB(time.time), "AmazonSQS": _SQS(time.time)}
    lock = Lock()

    def answer(exchange: Exchange) -> None:
        """Respond to a call of AWS: call the method of the operation that X-Amz-Target names, and
        send what it returns with 200, or the ClientError that it raises with 400.
        """
        service, _, operation = exchange.request.headers["x-amz-target"].partition(".")
        method = getattr(services[service], xform_name(operation))
        parameters = decode(exchange.request.body)
        try:
            with lock:
                result = method(**parameters)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            respond = status(400, body=encode({**error.response, "__type": code}))
        else:
            respond = status(200, body=encode(result))
        respond(exchange)

    with Receiver() as server:
        server.default = answer
        yield f"http://127.0.0.1:{server.port}"
