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
    def create_table(self, **table: Any) -> None:
        raise ClientError({"Error": {"Code": "ResourceInUseException"}}, "CreateTable")


class _SQS(FakeSQS):
    def get_queue_url(self, *, QueueName: str) -> dict[str, str]:  # noqa: N803
        """Return the URL of a queue, which is made if it is missing."""
        url = f"https://sqs.test/{QueueName}"
        self.queue(url)
        return {"QueueUrl": url}


@contextmanager
def aws_over_http() -> Iterator[str]:
    """Serve DynamoDB, with its table, and SQS, with any queue, until the end of the block; yield
    the URL.
    """
    services = {"DynamoDB_20120810": _DynamoDB(time.time), "AmazonSQS": _SQS(time.time)}
    lock = Lock()

    def answer(exchange: Exchange) -> None:
        """Respond to a call of AWS, by the operation that its X-Amz-Target names."""
        service, _, operation = exchange.request.headers["x-amz-target"].partition(".")
        call = getattr(services[service], xform_name(operation))
        try:
            with lock:
                response = status(200, body=encode(call(**decode(exchange.request.body))))
        except ClientError as error:
            code = error.response["Error"]["Code"]
            response = status(400, body=encode({**error.response, "__type": code}))
        response(exchange)

    with Receiver() as server:
        server.default = answer
        yield f"http://127.0.0.1:{server.port}"
