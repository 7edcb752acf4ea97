"""`make e2e`: deploy the package to ministack, and drive it through API Gateway, Lambda and SQS."""

import base64
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from chalicelib.settings import Scope
from tests.support.ministack import Ministack, ministack, without_metric_math
from tests.support.receiver import Receiver
from tests.support.world import ROOT
from tools import api_key
from tools.package import package

STAGE = "dev"
STACK = "triggers-api-dev"
BUCKET = "packages"
KEY = api_key.new_key()
SIGNING_SECRET = "whsec_" + base64.b64encode(b"the signing secret of make e2e").decode()

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(not os.environ.get("E2E"), reason="takes minutes; `make e2e` sets E2E"),
]


class System:
    """What is deployed, as a caller, a receiver and an operator see it."""

    def __init__(self, aws: Ministack, receiver: Receiver) -> None:
        [stack] = aws.direct("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        self.url = aws.api_url(outputs["RestAPIId"])
        self.receiver = receiver

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the document of a response, whose status must be 2xx."""
        headers = {"Authorization": f"Bearer {KEY}"}
        response = urllib3.request(
            method, self.url + path, json=body, headers=headers, timeout=40, retries=False
        )
        assert response.status < 300, response.data
        return response.json()


def deploy(aws: Ministack, webhook_url: str, folder: Path) -> None:
    """Create one stack of the package, as the AWS CLI would."""
    package(STAGE, folder)
    s3 = aws.direct("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.upload_file(str(folder / "deployment.zip"), BUCKET, "deployment.zip")
    template = (folder / "sam.json").read_text()
    template = template.replace("./deployment.zip", f"s3://{BUCKET}/deployment.zip")
    # In AWS, a permission for a single call of SQS is one for its batch call, too.
    template = re.sub(r'"(sqs:(?:Send|Delete)Message)"', r'"\1", "\1Batch"', template)
    parameters = {
        "ZapierWebhookUrl": webhook_url,
        "ApiKeys": api_key.entry("e2e", KEY, "+".join(Scope)),
        "WebhookSigningSecrets": SIGNING_SECRET,
    }
    aws.create_stack(STACK, without_metric_math(template), parameters)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("e2e")
    with Receiver() as receiver, ministack(folder / "log") as aws:
        deploy(aws, receiver.url, folder)
        yield System(aws, receiver)


def test_smoke_passes(system: System) -> None:
    environ = {**os.environ, "TRIGGERS_URL": system.url, "TRIGGERS_API_KEY": KEY}
    subprocess.run([sys.executable, "-m", "tools.smoke"], cwd=ROOT, env=environ, check=True)


def test_the_worker_invoked_by_its_event_source_retries_and_delivers(system: System) -> None:
    system.receiver.script(503, 503)
    posted = system.call("POST", "/events", {"event_type": "order.paid", "payload": {}})

    deadline = time.monotonic() + 30
    while (event := system.call("GET", f"/events/{posted['event_id']}"))["status"] == "pending":
        assert time.monotonic() < deadline
        time.sleep(0.25)

    assert [attempt["status_code"] for attempt in event["attempts"]] == [503, 503, 200]
