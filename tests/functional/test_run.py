"""`make run`, as a process: what it prints, what it does with the environment, how it ends."""

import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from chalicelib import settings
from tests.support.receiver import Receiver
from tests.support.running import ROOT, Run, environment, running
from tests.support.world import KEY, digest
from tools import local_aws

EVENT = '{"event_type": "order.created", "payload": {"order_id": 7}}'
OWN_KEY = {"API_KEYS": f"acme:{digest(KEY)}"}


@pytest.fixture(scope="module")
def emulator() -> str:
    return local_aws.start_moto()


@pytest.fixture(scope="module")
def printed() -> list[str]:
    return []


@pytest.fixture(scope="module")
def system(printed: list[str]) -> Iterator[Run]:
    """A system with nothing set; `printed` has the lines up to `ready`."""
    with contextlib.closing(Run([sys.executable, "-m", "tools.run"])) as run:
        while not printed or not printed[-1].startswith("ready"):
            printed.append(run.wait_for("(.*)"))
        run.key = found(printed, r"key +(trk_\S+)")
        run.port = int(found(printed, r"ready  http://127.0.0.1:(\d+)"))
        yield run


def found(lines: list[str], pattern: str) -> str:
    match = re.search(pattern, "\n".join(lines), re.MULTILINE)
    assert match, pattern
    return match[1]


def fail(printed: list[str], query: str) -> None:
    """Tell the built-in receiver to fail, with the command that was printed."""
    command = shlex.split(found(printed, rf"^ *(curl .*/fail\?{re.escape(query)}.*)"))
    assert command[:-1] == ["curl", "-sS", "-X", "POST"]
    urllib.request.urlopen(urllib.request.Request(command[-1], method="POST"), timeout=20).close()


def post(system: Run, **headers: str) -> dict[str, Any]:
    status, _, body = system.call("POST", "/events", EVENT, **headers)
    assert status == 202
    event: dict[str, Any] = json.loads(body)
    return event


def test_the_first_line_links_to_the_console_with_the_key(system: Run, printed: list[str]) -> None:
    assert printed[0].split() == ["console", f"http://127.0.0.1:{system.port}/#key={system.key}"]


def test_the_printed_curl_posts_an_event_that_reaches_the_receiver(system: Run, printed: list[str]) -> None:
    command = shlex.split(found(printed, r"^ *(curl .*/events .*)"))

    event = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=20).stdout)

    assert event["status"] == "delivered"
    assert "responded 200" in system.wait_for(rf"(.*{event['event_id'][:12]}  received.*)")


def test_the_commands_of_the_readme_post_an_event(system: Run) -> None:
    [block] = re.findall(
        r"^\$ (export TRIGGERS_URL=.*?)```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    commands = re.sub(r"(?m)^\$ ", "", block).replace(":8000", f":{system.port}")

    done = subprocess.run(
        ["bash", "-c", commands.replace("trk_…", system.key)], capture_output=True, check=True, timeout=20
    )

    assert "event_id" in json.loads(done.stdout)


def test_an_event_is_retried_until_the_receiver_recovers(system: Run, printed: list[str]) -> None:
    fail(printed, "status=503&times=2")

    event = post(system)

    short_id = event["event_id"][:12]
    assert event["status"] == "pending"
    for outcome in ("retry", "retry", "delivered"):
        system.wait_for(rf"\S+  {short_id}  ({outcome})")


def test_a_dead_letter_is_linked_and_can_be_replayed(system: Run, printed: list[str]) -> None:
    fail(printed, "status=404")

    event_id = post(system)["event_id"]

    link = system.wait_for(rf"\S+  {event_id[:12]}  dead letter .* (http\S+)")
    assert link == f"http://127.0.0.1:{system.port}/#/events/{event_id}?key={system.key}"
    assert system.call("POST", f"/events/{event_id}/replay")[0] == 202
    system.wait_for(rf"\S+  {event_id[:12]}  (delivered)")


def test_the_printed_variables_are_the_settings_of_another_process(system: Run, printed: list[str]) -> None:
    words = shlex.split(found(printed, r"^ *export (.*)"))

    variables = dict(word.split("=", 1) for word in words)

    assert settings.load(variables).events_table_name == "triggers-api-dev-events"
    assert variables["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_make_and_the_system_within_five_seconds(emulator: str, number: signal.Signals) -> None:
    make = ["make", "--no-print-directory", "-o", ".venv/.set-up", f"PY={sys.executable}", "run"]
    with running(command=make, AWS_ENDPOINT_URL=emulator, MAKEFLAGS="", MAKELEVEL="0") as system:
        if number == signal.SIGINT:  # what a terminal does with Ctrl-C
            os.killpg(system.process.pid, number)
        system.end(number)

        with pytest.raises(ProcessLookupError):
            os.killpg(system.process.pid, 0)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", system.port), timeout=1)


def test_what_is_set_is_used_and_secrets_are_not_printed(emulator: str) -> None:
    own = {"AWS_ENDPOINT_URL": emulator, "STAGE": "own", "SUBSCRIPTION_HOSTS": "127.0.0.1", **OWN_KEY}
    with Receiver() as receiver, running(key=KEY, ZAPIER_WEBHOOK_URL=receiver.url, **own) as system:
        subscription = json.dumps({"target_url": receiver.url})
        assert system.call("POST", "/subscriptions", subscription)[0] == 201
        event = post(system)
        assert receiver.wait_for(2, timeout=10)
        system.end(signal.SIGTERM)
        system.reader.join()
        lines = list(system.lines.queue)

    pushed = {request.headers["webhook-id"] for request in receiver.requests}
    assert pushed == {event["event_id"], *event["copies"]}
    assert not [line for line in lines if line and ("secret" in line or digest(KEY) in line)]


def test_a_second_start_finds_the_events_of_the_first_which_pull_only_stores_for_consumers(emulator: str) -> None:
    pull_only = {"AWS_ENDPOINT_URL": emulator, "STAGE": "pull", "ZAPIER_WEBHOOK_URL": "none"}
    with running(**pull_only) as first:
        event = post(first)
    with running(**pull_only) as second:
        _, _, body = second.call("GET", "/inbox")

    assert event["status"] == "pending"
    assert event["next_attempt_at"] is None
    assert [item["event_id"] for item in json.loads(body)["events"]] == [event["event_id"]]


def ended(**variables: str) -> tuple[int, str, str]:
    """Return status, standard output and standard error of a run that ends by itself."""
    process = subprocess.run(
        [sys.executable, "-m", "tools.run"],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    return process.returncode, process.stdout, process.stderr


def test_all_unusable_variables_are_named_in_one_line() -> None:
    unusable = {
        "API_KEYS": "acme",
        "ZAPIER_WEBHOOK_URL": "http://example.com/secret",
        "WORKER_MAX_CONCURRENCY": "1",
        "STAGE": "a b",
        "LOG_LEVEL": "LOUD",
        "PORT": "http",
        "AWS_ENDPOINT_URL": "localhost",
    }
    status, output, errors = ended(**unusable)

    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert [name for name in unusable if name not in errors] == []
    assert "secret" not in errors


def test_an_aws_that_does_not_respond_is_one_line() -> None:
    status, output, errors = ended(AWS_ENDPOINT_URL="http://127.0.0.1:9")

    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert "http://127.0.0.1:9" in errors


@pytest.mark.parametrize("name", ["EVENTS_TABLE_NAME", "INBOX_QUEUE_URL", "INBOX_DLQ_URL", "SETTINGS_SECRET"])
def test_a_variable_that_names_what_is_not_there_is_named_in_one_line(name: str, emulator: str) -> None:
    status, _, errors = ended(**{name: "http://127.0.0.1/1/absent"}, AWS_ENDPOINT_URL=emulator)

    assert (status, errors.count("\n")) == (1, 1)
    assert f"{name} is unusable: it" in errors


def test_a_port_in_use_is_named_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        status, output, errors = ended(PORT=port)

    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert port in errors


def test_a_client_that_stops_in_the_middle_does_not_block_others(system: Run) -> None:
    with socket.create_connection(("127.0.0.1", system.port), timeout=5) as connection:
        connection.sendall(b"POST /events HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")

        assert system.call("GET", "/health")[0] == http.client.OK
