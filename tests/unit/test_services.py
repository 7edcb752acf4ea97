from typing import Any

import boto3
import pytest

from chalicelib.infra import clients as aws


@pytest.mark.usefixtures("shared_world")
def test_calls_of_a_function_are_without_the_header_that_detects_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "triggers-api-dev-worker")
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-5759e988-bd862e3fe1be46a994272793;Lineage=1:a87bd80c:15")
    sent: list[bool] = []

    for client in (boto3.client("sqs"), aws.make_client("sqs")):
        client.meta.events.register_first(
            "before-send", lambda request, **_: sent.append("X-Amzn-Trace-Id" in request.headers)
        )
        client.list_queues()

    assert sent == [True, False]


def test_a_call_takes_at_most_call_seconds() -> None:
    config: Any = aws.CONFIG
    tries = config.retries["total_max_attempts"]
    assert config.retries["mode"] == "standard"
    assert tries * (config.connect_timeout + config.read_timeout) + 1 <= aws.CALL_SECONDS
    assert config.max_pool_connections >= 64  # the threads of a batch do not wait for each other's connections
