"""examples/listen.py: what a webhook gets comes to a server on the developer's machine."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from tests.support.aws_calls import Aws
from tests.support.receiver import Receiver, redirect
from tests.support.world import ROOT, World

TENANT = "customer-42"
LISTEN = (sys.executable, "-m", "examples.listen")


@pytest.mark.usefixtures("served_app")
def test_each_delivery_comes_once_as_its_push_does_also_while_the_webhook_is_paused(
    world: World, target: Receiver, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = world.post_later(tenant=TENANT, event_type="order.older")
    world.sleep(3600)
    path = world.subscribe(target, tenant=TENANT, header_prefix="svix").location
    webhook = Webhook(world.get(f"{path}/secret")["secret"])
    monkeypatch.setenv("TRIGGERS_API_KEY", world.make_token(TENANT))
    world.post_later(tenant=TENANT)  # before
    with Receiver() as local:
        command = [*LISTEN, local.url, "--events", "order.*"]
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
            world.post_later(paid, tenant=TENANT, event_type="order.paid", subject="order-3")
            world.post_later(tenant=TENANT, event_type="invoice.paid")
            told = [listener.stdout.readline()]
            world.call("POST", f"{path}/send", {"event_id": older["event_id"]})
            told.append(listener.stdout.readline())
            world.call("POST", f"{path}/disable")
            world.sleep(11)  # until each container knows it
            world.post_later(tenant=TENANT, event_type="order.kept")
            told.append(listener.stdout.readline())
            listener.send_signal(signal.SIGINT)
            assert listener.wait(10) == 0

    assert [line.split()[1:4] for line in told] == [
        ["order.paid", "order-3", "200"],
        ["order.older", "-", "200"],
        ["order.kept", "-", "200"],
    ]
    _, push, *_ = target.requests
    first, _, kept = local.requests
    assert first.body == push.body
    assert first.headers.keys() == push.headers.keys()
    assert kept.headers["svix-signature"] == kept.headers["webhook-signature"]
    for request in local.requests:
        webhook.verify(request.body, dict(request.headers))


@pytest.mark.usefixtures("served_app")
def test_what_there_was_since_a_time_is_posted_once_to_a_receiver_that_may_fail(
    world: World, target: Receiver, aws: Aws
) -> None:
    path = world.subscribe(target, tenant=TENANT).location
    world.subscribe(target, "invoice.*", tenant=TENANT)
    posted = [world.post_later(tenant=TENANT, subject=f"order-{number}") for number in range(2)]
    before = len(aws.calls)
    with Receiver() as local:
        local.script(500)

        def listen(*options: str, **settings: str) -> subprocess.CompletedProcess[str]:
            command = [*LISTEN, local.url, "--once", *options]
            token = world.make_token(TENANT)
            environ = {**os.environ, "TRIGGERS_API_KEY": token, **settings}
            return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

        unclear = listen("--since", "3650d")
        chosen = ("--webhook", path.rpartition("/")[2])
        listened = listen(*chosen, "--since", "3650d", "--header", "X-Local: 1")
        of_now = listen(*chosen)
        lost = listen(TRIGGERS_URL=f"{os.environ['TRIGGERS_URL']}/health?")
        target.script(redirect(f"{os.environ['TRIGGERS_URL']}/subscriptions"))
        redirected = listen(TRIGGERS_URL=target.url)
        no_url = listen(TRIGGERS_URL="nonsense")
        no_key = listen(TRIGGERS_API_KEY="trt_1\r")
        no_time = listen("--since", f"{10**14}d")

    assert unclear.returncode == 1
    assert "choose a webhook with --webhook:" in unclear.stderr
    assert lost.stderr == "what answers at TRIGGERS_URL is not the API\n"
    assert redirected.stderr.startswith("302: a redirect")
    assert no_url.stderr.startswith("TRIGGERS_URL must be")
    assert no_key.stderr.startswith("TRIGGERS_API_KEY must be")
    assert "trt_1" not in no_key.stderr
    assert no_time.stderr.endswith("argument --since: is out of range\n")
    assert (listened.returncode, of_now.returncode, of_now.stdout) == (1, 0, "")
    assert [line.split()[2:4] for line in listened.stdout.splitlines()] == [
        ["order-0", "500"],
        ["order-1", "200"],
    ]
    pushed = [request.headers["webhook-id"] for request in local.requests]
    assert pushed == [event["copies"][0] for event in posted]
    assert {request.headers["x-local"] for request in local.requests} == {"1"}
    assert {*aws.calls[before:]} <= {"Query", "GetItem", "BatchGetItem"}


@pytest.mark.usefixtures("served_app")
def test_the_block_of_the_guide_gets_the_listener_from_the_api_and_starts_it(
    world: World, target: Receiver, tmp_path: Path
) -> None:
    world.subscribe(target, tenant=TENANT)
    guide = (ROOT / "docs" / "receiving.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^   export TRIGGERS_URL=.*\n   curl .*$", guide, re.MULTILINE)
    block = block.replace("https://…", os.environ["TRIGGERS_URL"])
    block = block.replace("trt_…", world.make_token(TENANT))
    with subprocess.Popen(
        ["bash", "-c", block],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as listener:
        assert listener.stderr
        assert "goes to http://127.0.0.1:3000/hook" in listener.stderr.readline()
        os.killpg(listener.pid, signal.SIGINT)
