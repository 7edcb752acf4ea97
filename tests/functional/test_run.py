"""`make run`, as the process it is."""

import contextlib
import http.client
import io
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto.dynamodb.models.dynamo_type import DynamoType
from moto.server import ThreadedMotoServer

from chalicelib import settings
from chalicelib.auth import authenticate
from tests.support.running import ROOT, Run, environment, running
from tools import aws, local
from tools.receiver import Receiver
from tools.screen import Screen, what_next
from tools.stage import TABLE_AND_QUEUES, WEBHOOK_AND_KEYS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*not supported by moto"),
]


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def shared_run() -> Iterator[Run]:
    with running() as system:
        yield system


def test_what_is_posted_is_pushed_to_the_built_in_receiver(shared_run: Run) -> None:
    status, _, content = shared_run.call("POST", "/events", '{"event_type": "order.created", "payload": {"id": 7}}')

    event_id = json.loads(content)["event_id"]
    shown = shared_run.wait_for(rf"\S+  {event_id[:12]}  received +(.*)")
    assert (status, json.loads(content)["status"]) == (202, "delivered")
    assert shown == 'answered 200: {"id": 7}'


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("status=404", "the next delivery is answered 404\n"),
        ("status=404&times=1", "the next delivery is answered 404\n"),
        ("times=2", "the next 2 deliveries are answered 503\n"),
        ("times=0", "all well again\n"),
    ],
)
def test_the_built_in_receiver_says_what_it_will_answer(query: str, said: str) -> None:
    receiver = Receiver(Screen(io.StringIO(), color=False))
    receiver.start()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", receiver.server_port, timeout=5)) as connection:
        connection.request("POST", f"/fail?{query}")
        answer = connection.getresponse().read().decode()
    receiver.shutdown()
    receiver.server_close()

    assert answer == said


def test_what_was_queued_is_pushed_by_the_worker(shared_run: Run) -> None:
    body = '{"event_type": "order.queued", "payload": {}}'

    status, _, content = shared_run.call("POST", "/events", body, Prefer="respond-async")

    assert (status, json.loads(content)["status"]) == (202, "pending")
    shared_run.wait_for(rf"\S+  {json.loads(content)['event_id'][:12]}  (received)")


def test_an_unknown_path_is_a_problem_that_repeats_no_credentials(shared_run: Run) -> None:
    status, headers, content = shared_run.call("GET", "/nowhere")

    assert (status, headers["Content-Type"]) == (404, "application/problem+json")
    assert shared_run.key.encode() not in content


def test_a_body_in_chunks_is_read_whole(shared_run: Run) -> None:
    chunks = iter([b'{"event_type": "order.', b'chunked", "payload": {}}'])
    connection = http.client.HTTPConnection("127.0.0.1", shared_run.port, timeout=5)
    with contextlib.closing(connection):
        for _ in range(2):  # on one connection: the next request is found behind the last chunk
            connection.request("POST", "/events", chunks, {"Authorization": f"Bearer {shared_run.key}"})
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["event_type"]) == (202, "order.chunked")
            chunks = iter([b'{"event_type": "order.chunked", "payload": {}}'])


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("Content-Length: many", b"400"),
        ("Content-Length: -1", b"400"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", b"400"),
        ("Transfer-Encoding: chunked\r\n\r\n-1", b"400"),
        ("Content-Length: 10485761", b"413"),
        ("\r\n".join(["A: " + "x" * 50] * 300), b"431"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused_and_the_connection_closed(
    shared_run: Run, headers: str, expected: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", shared_run.port), timeout=5) as connection:
        connection.sendall(f"POST /events HTTP/1.1\r\nHost: local\r\n{headers}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answer.split()[1] == expected


def test_an_answer_without_a_body_leaves_the_connection_usable(shared_run: Run) -> None:
    requests = (
        "HEAD /health HTTP/1.1\r\nHost: local\r\n\r\nGET /health HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", shared_run.port), timeout=5) as connection:
        connection.sendall(requests.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert re.search(rb"\r\n\r\nHTTP/1.1 200 OK\r\n", answer)


def test_without_a_terminal_it_says_how_to_tell_logs_from_the_rest(emulator: str) -> None:
    with contextlib.closing(Run([sys.executable, "-m", "tools.run"], AWS_ENDPOINT_URL=emulator)) as system:
        said = system.wait_for(r"  logs +(.*)")
        system.wait_for("(ready)")

    assert said == "standard output, in lines that begin with {"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_time_and_leaves_no_process(emulator: str, number: signal.Signals) -> None:
    with running(AWS_ENDPOINT_URL=emulator) as system:
        status = system.end(number)

        assert status == 0
        with pytest.raises(ProcessLookupError):
            os.killpg(system.process.pid, 0)


class Terminal:
    """`make run`'s system with a terminal of 80 columns, and what stands there."""

    def __init__(self, **settings: str) -> None:
        ours, theirs = os.openpty()
        self.screen = os.fdopen(ours, "rb", buffering=0)
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.run"],
            cwd=ROOT,
            env=environment(COLUMNS="80", **settings),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def wait_for(self, pattern: str) -> str:
        """Return everything shown so far once `pattern` is in it."""
        deadline = time.monotonic() + 40
        while not re.search(pattern, self.shown):
            if not select.select([self.screen], [], [], max(0, deadline - time.monotonic()))[0]:
                pytest.fail(f"not shown: {pattern}")
            self.shown += self.screen.read(65536).decode().replace("\r\n", "\n")
        return self.shown


@pytest.fixture
def terminal(emulator: str) -> Iterator[Terminal]:
    made = Terminal(AWS_ENDPOINT_URL=emulator, STAGE="seen", NO_COLOR="1", LOG_LEVEL="INFO")
    yield made
    made.process.kill()
    made.process.wait()
    made.screen.close()


def pasted(text: str, beginning: str) -> list[str]:
    """Return the words of the command in `text` that begins so, as a shell reads them."""
    command = re.search(rf"^  {re.escape(beginning)}(.*\\\n)*.*$", text, re.MULTILINE)
    assert command
    return shlex.split(command[0].replace("\\\n", ""))


def test_a_terminal_shows_short_lines_commands_to_paste_and_what_to_do_with_a_dead_letter(terminal: Terminal) -> None:
    started = terminal.wait_for(r"(?m)^ready .*\n")
    curl = pasted(started, "curl -sS -w '\\n' http://")
    fail = next(word for word in pasted(started, "curl -sS -X POST") if "fail" in word)
    port, authorization, body = curl[4].split(":")[2].split("/")[0], curl[6].split(": ")[1], curl[-1]
    for url_port, path, content, headers in (
        (fail.split(":")[2].split("/")[0], "/fail?status=404", None, {}),
        (port, "/events", body, {"Authorization": authorization, "Content-Type": "application/json"}),
    ):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", int(url_port), timeout=5)) as connection:
            connection.request("POST", path, content, headers)
            event = connection.getresponse().read()
    shown = terminal.wait_for(r"tools\.ops dlq\n")

    assert started.count("\n") <= 24
    usual = shown.replace(os.path.relpath(sys.executable), ".venv/bin/python")
    assert [line for line in usual.splitlines() if len(line) > 80] == []
    assert f"tools.ops replay {json.loads(event)['event_id']}\n" in shown
    assert "\x1b" not in shown


def test_it_ends_by_itself_when_the_terminal_is_closed(terminal: Terminal) -> None:
    terminal.wait_for(r"(?m)^ready .*\n")

    terminal.screen.close()

    assert terminal.process.wait(timeout=5) == 0


def test_it_ends_quietly_when_nobody_reads_on(emulator: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.run"],
        cwd=ROOT,
        env=environment(AWS_ENDPOINT_URL=emulator),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stderr

    process.stdout.readline()
    process.stdout.close()

    assert (process.wait(timeout=20), process.stderr.read()) == (0, "")
    process.stderr.close()


def test_on_a_given_aws_a_second_start_finds_what_the_first_made_and_left_when_it_was_killed(emulator: str) -> None:
    body = '{"event_type": "order.created", "payload": {}}'
    with running(AWS_ENDPOINT_URL=emulator, STAGE="again") as first:
        event_id = json.loads(first.call("POST", "/events", body)[2])["event_id"]
        first.process.kill()

    with running(AWS_ENDPOINT_URL=emulator, STAGE="again") as second:
        status, _, content = second.call("GET", f"/events/{event_id}")

    assert (status, json.loads(content)["status"]) == (200, "delivered")


def test_a_query_of_the_embedded_aws_looks_at_its_partition_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials: Any = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}
    dynamodb = boto3.client("dynamodb", endpoint_url=aws.start_moto(), **credentials)
    dynamodb.create_table(
        TableName="crowded",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("id", "part", "time")],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "parts",
                "KeySchema": [
                    {"AttributeName": "part", "KeyType": "HASH"},
                    {"AttributeName": "time", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
    )
    for number in range(500):
        names = {
            "id": f"{number * 7919 % 500:03}",
            "part": "few" if number % 50 == 0 else "many",
            "time": f"{number:03}",
        }
        dynamodb.put_item(TableName="crowded", Item={name: {"S": value} for name, value in names.items()})
    compared: list[str] = []

    def is_less(ours: DynamoType, theirs: DynamoType) -> bool:
        compared.append(ours.value)
        return bool(ours.value < theirs.value)

    monkeypatch.setattr(DynamoType, "__lt__", is_less)

    page = dynamodb.query(
        TableName="crowded",
        IndexName="parts",
        KeyConditionExpression="part = :part",
        ExpressionAttributeValues={":part": {"S": "few"}},
        ScanIndexForward=False,
        Limit=3,
    )

    assert [row["time"]["S"] for row in page["Items"]] == ["450", "400", "350"]
    assert len(compared) < 50


def ended(*command: str, **settings: str) -> tuple[int, str, str]:
    """Return the status of a command that ends by itself, what it printed, and its errors."""
    process = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    return process.returncode, process.stdout, process.stderr


def test_settings_at_fault_stop_it_with_one_line_that_names_each() -> None:
    status, output, errors = ended("tools.run", API_KEYS="acme", WORKER_MAX_CONCURRENCY="1", PORT="http")

    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert all(name in errors for name in ("API_KEYS", "WORKER_MAX_CONCURRENCY", "PORT"))


def test_a_port_that_is_taken_stops_it_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, output, errors = ended("tools.run", PORT=port)

    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert port in errors


@pytest.mark.parametrize(("scopes", "granted"), [("", {"produce", "consume"}), ("produce", {"produce"})])
def test_a_new_key_is_shown_with_the_entry_that_lets_it_in(scopes: str, granted: set[str]) -> None:
    _, output, _ = ended("tools.api_key", "acme", scopes)

    shown, line = (row.split()[-1] for row in output.splitlines())
    key = authenticate(
        f"Bearer {shown}", settings.load({**TABLE_AND_QUEUES, **WEBHOOK_AND_KEYS, "API_KEYS": line}).api_keys
    )
    assert (key.name, set(key.scopes)) == ("acme", granted)


@pytest.mark.parametrize(("name", "scopes"), [("", ""), ("a:b", ""), ("a,b", ""), ("acme", "all")])
def test_a_name_or_scope_that_cannot_stand_in_an_entry_is_refused(name: str, scopes: str) -> None:
    status, output, errors = ended("tools.api_key", name, scopes)

    assert (status, output, errors.count("\n")) == (1, "", 1)


def test_a_persons_own_credentials_are_not_shown_with_a_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in aws.DUMMY:
        monkeypatch.setenv(name, "wJalrXUtnFEMI")

    variables = local._aws_variables("dev")

    shown = what_next("evt_1", url="http://127.0.0.1:8000", key=None, python="python", aws=variables, fold=" ")
    assert "wJalrXUtnFEMI" not in shown
