"""examples/listen.py: what a webhook gets comes to a server on the developer's machine."""

import signal
import subprocess
import sys

import pytest
from standardwebhooks import Webhook

from tests.support.aws_calls import Aws
from tests.support.receiver import Receiver
from tests.support.subscribing import make_token, post_later, secret_of, subscribed
from tests.support.world import ROOT, World

TENANT = "customer-42"


@pytest.mark.usefixtures("served_app")
def test_each_delivery_comes_once_as_its_push_does_also_while_the_webhook_is_paused(
    world: World, target: Receiver, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = subscribed(world, target, tenant=TENANT, header_prefix="svix")
    webhook = Webhook(secret_of(world, path))
    monkeypatch.setenv("TRIGGERS_API_KEY", make_token(world, TENANT))
    post_later(world, tenant=TENANT)  # before
    with Receiver() as local:
        script = str(ROOT / "examples" / "listen.py")
        command = [sys.executable, script, local.url, "--events", "order.*"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as listener:
            assert listener.stdout
            assert listener.stderr
            assert "goes to" in listener.stderr.readline()
            aws.fail("Query")
            assert "trying again" in listener.stderr.readline()
            aws.heal()
            paid = {"n": 1.0, "price": "12 €"}
            post_later(world, paid, tenant=TENANT, event_type="order.paid", subject="order-3")
            post_later(world, tenant=TENANT, event_type="invoice.paid")
            told = [listener.stdout.readline()]
            world.call("POST", f"{path}/disable")
            world.sleep(11)  # until each container knows it
            post_later(world, tenant=TENANT, event_type="order.kept")
            told.append(listener.stdout.readline())
            listener.send_signal(signal.SIGINT)
            assert listener.wait(10) == 0

    assert [line.split()[1:4] for line in told] == [
        ["order.paid", "order-3", "200"],
        ["order.kept", "-", "200"],
    ]
    _, push, *_ = target.requests
    first, kept = local.requests
    assert first.body == push.body
    assert first.headers.keys() == push.headers.keys()
    assert kept.headers["svix-signature"] == kept.headers["webhook-signature"]
    for request in local.requests:
        webhook.verify(request.body, dict(request.headers))
