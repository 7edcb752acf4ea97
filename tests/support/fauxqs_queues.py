"""The servers that tests/second_aws starts, as AWS for a system under test."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import urllib3

# `id`, `body`, `attributes` by name, and `delay_seconds`: what is left of the delay
Message = dict[str, Any]


class FauxqsQueues:
    """The queues of fauxqs, and what SQS cannot tell: every message, hidden or not, without
    receiving it.
    """

    def __init__(self, clock: Callable[[], float], client: Any) -> None:
        self._clock = clock
        self._client = client

    def messages(self, queue_url: str) -> list[Message]:
        url = f"{os.environ['AWS_ENDPOINT_URL_SQS']}/_fauxqs/queues/{queue_url.rsplit('/', 1)[-1]}"
        held = urllib3.request("GET", url, retries=False, timeout=5).json()["messages"]
        hidden = [received["message"] for received in held["inflight"]]
        return [
            {
                "id": message["messageId"],
                "body": message["body"],
                "attributes": {
                    name: value["StringValue"]
                    for name, value in message["messageAttributes"].items()
                },
                "delay_seconds": max(0.0, message.get("delayUntil", 0) / 1000 - self._clock()),
            }
            for message in [*held["ready"], *held["delayed"], *hidden]
        ]

    def clear(self, queue_url: str) -> None:
        self._client.purge_queue(QueueUrl=queue_url)


@contextmanager
def second_aws(clock: Callable[[], float], session: boto3.Session) -> Iterator[FauxqsQueues]:
    """Let the servers that the environment names be AWS until the end of the block.

    Every call of the session's clients to SQS carries the clock, which fauxqs follows.
    """

    def send_clock(params: dict[str, Any], **_: object) -> None:
        params["headers"]["x-clock"] = str(clock() * 1000)

    session.events.register("before-call.sqs", send_clock)
    try:
        yield FauxqsQueues(clock, session.client("sqs"))
    finally:
        session.events.unregister("before-call.sqs", send_clock)
