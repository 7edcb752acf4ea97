"""`make e2e`: the example of EventBridge in front, by the AWS CLI, up to an emulated AWS."""

import json
import os

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.support.ministack import ACCOUNT
from tests.support.packages import install
from tests.support.running import ended
from tests.support.world import ROOT

KEY = "the key of the shop"
ARN = "arn:aws:sqs:us-east-1:123456789012:"

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(not os.environ.get("E2E"), reason="takes minutes; `make e2e` sets E2E"),
]


def test_a_rule_and_a_pipe_post_to_the_api() -> None:
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    variables = {
        "PATH": f"{install().parent}:{os.environ['PATH']}",
        "AWS_ENDPOINT_URL": url,
        "AWS_DEFAULT_REGION": ACCOUNT["region_name"],
        "AWS_ACCESS_KEY_ID": ACCOUNT["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": ACCOUNT["aws_secret_access_key"],
        "TRIGGERS_URL": "https://triggers.example/api",
        "TRIGGERS_API_KEY": KEY,
        "QUEUE_ARN": f"{ARN}orders",
        "DLQ_ARN": f"{ARN}failed",
    }
    script = f"{ROOT}/examples/eventbridge/front.sh"
    try:
        refused = ended("sh", script, **{**variables, "DLQ_ARN": ""})
        status, output, errors = ended("sh", script, **variables)
        events = boto3.client("events", endpoint_url=url, **ACCOUNT)
        [target] = events.list_targets_by_rule(Rule="orders-to-triggers")["Targets"]
        destination = events.describe_api_destination(Name="triggers")
        pipes = boto3.client("pipes", endpoint_url=url, **ACCOUNT)
        pipe = pipes.describe_pipe(Name="orders-to-triggers")
    finally:
        server.stop()

    assert refused[1] == ""
    assert "DLQ_ARN: is not set" in refused[2]
    assert (status, errors) == (0, "")
    assert KEY not in output
    assert destination["InvocationEndpoint"] == "https://triggers.example/api/events"
    assert target["Arn"] == pipe["Target"] == destination["ApiDestinationArn"]
    assert (pipe["Source"], target["DeadLetterConfig"]["Arn"]) == (f"{ARN}orders", f"{ARN}failed")
    # The template is JSON once its variables have their values, which are JSON.
    template = target["InputTransformer"]["InputTemplate"]
    body = json.loads(template.replace("<customer>", '"customer-42"').replace("<detail>", "{}"))
    assert body == {"event_type": "order.placed", "tenant": "customer-42", "payload": {}}
