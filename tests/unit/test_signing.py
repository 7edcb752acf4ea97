import base64
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from chalicelib.signing import signature

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(bytes(range(64))).decode()
STRANGER = "whsec_" + base64.b64encode(b"known to nobody at all").decode()


def signed(webhook_id: str, timestamp: int, body: bytes, *secrets: str) -> str:
    raw = [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]
    return signature(raw, webhook_id, timestamp, body)


def test_the_specifications_vector_comes_out() -> None:
    header = signed("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', SECRET)
    assert header == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@settings(deadline=None, max_examples=30)
@given(payload=st.dictionaries(st.text(), st.text() | st.integers()))
def test_a_receiver_that_knows_any_one_of_the_secrets_can_verify(payload: dict[str, str | int]) -> None:
    body = json.dumps(payload, ensure_ascii=False).encode() + b"\n"  # signed as sent, to the last byte
    now = int(time.time())
    header = signed("evt_1", now, body, SECRET, OTHER)
    headers = {"webhook-id": "evt_1", "webhook-timestamp": str(now), "webhook-signature": header}
    assert [each[:3] for each in header.split(" ")] == ["v1,", "v1,"]
    assert Webhook(SECRET).verify(body, headers) == Webhook(OTHER).verify(body, headers) == payload
    with pytest.raises(WebhookVerificationError):
        Webhook(STRANGER).verify(body, headers)


@pytest.mark.parametrize(("other_id", "later", "body"), [("evt_2", 0, b"{}"), ("evt_1", 1, b"{}"), ("evt_1", 0, b"[]")])
def test_id_and_timestamp_and_body_are_all_signed(other_id: str, later: int, body: bytes) -> None:
    now = int(time.time())
    header = signed("evt_1", now, b"{}", SECRET)
    headers = {"webhook-id": other_id, "webhook-timestamp": str(now + later), "webhook-signature": header}
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, headers)
