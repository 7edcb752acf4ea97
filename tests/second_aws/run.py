"""`make second-aws`: run tests that use moto elsewhere against an AWS that shares no code with it.

SQS is fauxqs, from npm. Each call carries the clock of the tests, and delays and visibility
timeouts follow it. DynamoDB is ministack's, which `make e2e` uses too. Its clock is the real one,
and TTL, all that follows it, is off.

Shown here: conditions, expressions, the indexes, delays, visibility timeouts and batches do not
rest on moto's ways. Not shown: what Amazon's own DynamoDB does where ministack differs from it,
throttling, an index that lags, TTL, limits of throughput, long polling, fair queues, IAM.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

from tests.support import ministack_process
from tools import local_aws

HERE = Path(__file__).parent
NODE = HERE / "node_modules" / ".bin" / "node"  # for Linux on x64; elsewhere the one on PATH
LOG_FILE = ministack_process.ROOT / ".local" / "second-aws.log"
TESTS = (
    "tests/functional/test_flows.py",
    "tests/functional/test_worker.py",
    "tests/functional/test_leases.py",
    "tests/functional/test_subscriptions.py",
    "tests/functional/test_erasure.py",
    "tests/functional/test_tokens.py",
)


@contextmanager
def fauxqs() -> Iterator[str]:
    """Serve SQS until the end of the block; yield its URL."""
    command = [NODE if NODE.exists() else "node", "--no-warnings", HERE / "fauxqs.mjs"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            port = process.stdout.readline().strip()
            if not port:
                sys.exit("fauxqs does not start: it needs its npm packages and Node 22.5 or newer")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def main() -> int:
    with (
        ministack_process.running(ministack_process.install(), LOG_FILE) as ministack,
        fauxqs() as sqs,
    ):
        dynamodb = f"http://127.0.0.1:{ministack.port}"
        local_aws.use(dynamodb)
        os.environ |= {"AWS_ENDPOINT_URL_DYNAMODB": dynamodb, "AWS_ENDPOINT_URL_SQS": sqs}
        # which ministack takes
        os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        os.environ["SECOND_AWS"] = "1"
        table = local_aws.ensure("dev")["EVENTS_TABLE_NAME"]
        ttl_off = {"AttributeName": "expires_at", "Enabled": False}
        boto3.client("dynamodb").update_time_to_live(
            TableName=table, TimeToLiveSpecification=ttl_off
        )
        command = [sys.executable, "-m", "pytest", "-n", "0", *TESTS, *sys.argv[1:]]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
