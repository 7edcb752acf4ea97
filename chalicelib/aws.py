"""What all calls to AWS have in common: how a client is made, how long a call may take, and how it fails."""

from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

# Two tries of 1 s to connect and 2 s to read, with up to 1 s between them: the longest that one call may take.
CALL_SECONDS = 7
CONFIG = Config(
    connect_timeout=1,
    read_timeout=2,
    retries={"mode": "standard", "total_max_attempts": 2},
    tcp_keepalive=True,
    max_pool_connections=64,
)
# The last three come from botocore's parsers, over what is no JSON object: it is not from AWS.
FAILURES = (ClientError, BotoCoreError, ResponseParserError, AttributeError, TypeError, ValueError)


def client(service: str) -> Any:
    """Return a boto3 client of `service` whose calls take CALL_SECONDS at most, or raise one of FAILURES."""
    made: Any = boto3.client(service, config=CONFIG)  # type: ignore[call-overload]
    made.meta.events.register("after-call", _refuse_what_is_no_answer)
    return made


def code(error: Exception) -> str:
    """Return what to call a failure in a log: its text might repeat what was sent."""
    return str(error.response["Error"].get("Code")) if isinstance(error, ClientError) else type(error).__name__


def _refuse_what_is_no_answer(http_response: Any, **_: object) -> None:
    """Raise if an answer is not a whole JSON object: botocore takes it for an empty one, as that of a write."""
    body: bytes = http_response.content
    is_whole = len(body) == int(http_response.headers.get("Content-Length", len(body)))
    text = body.strip()
    if not (is_whole and text.startswith(b"{") and text.endswith(b"}")):
        raise ResponseParserError("the answer is cut short, or not from AWS")
