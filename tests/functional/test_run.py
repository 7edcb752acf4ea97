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
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3

from chalicelib import settings
from tests.support.receiver import Receiver
from tests.support.running import ROOT, Run, environment, running
from tests.support.world import KEY, digest
from tools import local_aws
from tools.smoke import shape_faults

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
        printed += lines_until_ready(run)
        run.key = found(printed, r"key +(trk_\S+)")
        yield run


def lines_until_ready(run: Run) -> list[str]:
    """Return what is printed until the system is ready, and set its port."""
    lines = [""]
    while not lines[-1].startswith("ready"):
        lines.append(run.wait_for("(.*)"))
    run.port = int(found(lines, r"ready  http://127.0.0.1:(\d+)"))
    return lines[1:]


def found(lines: list[str], pattern: str) -> str:
    match = re.search(pattern, "\n".join(lines), re.MULTILINE)
    assert match, pattern
    return match[1]


def shell(commands: str) -> str:
    """Run commands that a user pastes, which must succeed; return their output. make uses this Python."""
    make = f'make() {{ command make -o .venv/.set-up PY={sys.executable} "$@"; }}'
    script = f"{make}\n{commands}"
    return subprocess.run(
        ["bash", "-ec", script],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        check=True,
        text=True,
        timeout=20,
    ).stdout


def paste(printed: list[str], pattern: str) -> str:
    """Run one of the printed commands after the first line."""
    return shell(f"{printed[0]}\n{found(printed, f'^({pattern})')}")


def fail(printed: list[str], query: str) -> None:
    """Tell the built-in receiver to fail."""
    paste(printed, rf"curl .*/fail\?{re.escape(query)}.*")


def post(system: Run, **headers: str) -> dict[str, Any]:
    status, _, body = system.call("POST", "/events", EVENT, **headers)
    assert status == 202
    event: dict[str, Any] = json.loads(body)
    return event


def test_the_console_is_linked_with_the_key(system: Run, printed: list[str]) -> None:
    assert found(printed, r"^console +(\S+)") == f"http://127.0.0.1:{system.port}/#key={system.key}"


def test_the_printed_commands_post_events_that_the_receiver_gets_signed(system: Run, printed: list[str]) -> None:
    event = json.loads(paste(printed, "curl .*/events.*"))
    made_by_send = paste(printed, "make send .*").split(":")[0]

    assert event["status"] == "delivered"
    received = [
        system.wait_for(rf"(.*  {event_id[:12]}  received.*)") for event_id in (event["event_id"], made_by_send)
    ]
    assert ["responded 200, signature ok" in line for line in received] == [True, True]
    assert f'{made_by_send}  responded 200, signature ok: {{"order_id": "2"}}' in paste(printed, r"curl -sS http\S+$")


def test_the_receiver_may_be_subscribed_to_and_checks_the_copies(system: Run, printed: list[str]) -> None:
    subscription_id = json.loads(paste(printed, "curl .*/subscriptions.*"))["subscription_id"]

    [copy_id] = post(system)["copies"]

    received = system.wait_for(rf"(.*  {copy_id[:12]}  received.*)")
    assert system.call("DELETE", f"/subscriptions/{subscription_id}")[0] == 204
    assert "responded 200, signature ok" in received


def test_the_receiver_tells_unsigned_pushes_forged_ones_and_nonsense(printed: list[str], system: Run) -> None:
    url = found(printed, r'"target_url": "(http\S+?)"')
    event = '{"event_id": "evt_1", "payload": {}}'
    signed = {"webhook-id": "evt_1", "webhook-timestamp": "1", "webhook-signature": "v1,A"}

    assert [push(url, event), push(url, event, signed)] == [200, 200]
    assert [push(url, text) for text in ("[", "{}", "[]", "1")] == [400] * 4
    assert [push(url.split("/hooks")[0] + "/fail?" + query, "") for query in ("times=x", "status=42")] == [400] * 2
    deliveries = paste(printed, r"curl -sS http\S+$").splitlines()
    assert "evt_1  responded 200, not signed" in deliveries[-2]
    assert "evt_1  responded 200, signature wrong" in deliveries[-1]


def push(url: str, body: str, headers: dict[str, str] | None = None) -> int:
    return urllib3.request("POST", url, body=body, headers=headers, timeout=5).status


def ended(module: str = "tools.run", **variables: str) -> tuple[int, str, str]:
    """Return status, standard output and standard error of a run that ends by itself."""
    process = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    return process.returncode, process.stdout, process.stderr


def smoke(system: Run, key: str, **variables: str) -> tuple[int, str, str]:
    variables |= {"TRIGGERS_URL": f"http://127.0.0.1:{system.port}", "TRIGGERS_API_KEY": key}
    return ended("tools.smoke", **variables)


def test_smoke_passes_and_leaves_nothing(system: Run, printed: list[str]) -> None:
    status, output, errors = smoke(system, system.key, TARGET_URL=found(printed, r'"target_url": "(http\S+?)"'))

    assert (status, errors) == (0, "")
    assert re.fullmatch(r"(ok  20[0124] +[\d,]+ ms  (GET|POST|DELETE) /\S+\n){12}", output)
    for kind in ("evt", "sub"):
        path = found([output], rf"DELETE (/\w+/{kind}_\w+)$")
        assert system.call("GET", path)[0] == 404


def test_smoke_ends_with_the_check_that_fails_and_cleans_up(system: Run, printed: list[str]) -> None:
    no_key = smoke(system, "wrong")
    no_host = smoke(system, system.key, TARGET_URL="https://example.com/")

    assert [(status, errors.count("\n")) for status, _, errors in (no_key, no_host)] == [(1, 1), (1, 1)]
    assert re.match(r"Error: 401 +\d+ ms  GET /me: ", no_key[2])
    assert re.match(r"Error: 400 +\d+ ms  POST /subscriptions: ", no_host[2])
    assert re.search(r"ok  204 +\d+ ms  DELETE /events/evt_\w+\n$", no_host[1])


def test_smoke_sees_members_that_are_missing_or_of_another_type(system: Run) -> None:
    event_id = post(system)["event_id"]
    event = json.loads(system.call("GET", f"/events/{event_id}")[2])
    components = json.loads((ROOT / "chalicelib" / "openapi.json").read_text())["components"]

    def faults(**members: Any) -> list[str]:
        return [*shape_faults(event | members, {"$ref": "#/components/schemas/Event"}, components)]

    assert faults() == []
    assert faults(status=1) == ["response.status must be string"]
    assert faults(attempts=[{}])[0] == "response.attempts[].at is missing"


def test_smoke_leases_from_a_pull_only_stage_and_says_what_it_may_not_erase(emulator: str) -> None:
    pull_only = {
        "AWS_ENDPOINT_URL": emulator,
        "STAGE": "smoke",
        "ZAPIER_WEBHOOK_URL": "none",
        "SUBSCRIPTION_HOSTS": "a.b",
    }
    with running(key=KEY, **pull_only, **OWN_KEY) as system:
        status, output, _ = smoke(system, KEY)
        [event_id] = re.findall(r"\n(evt_\w+) stays: ", output)
        _, _, body = system.call("GET", f"/events/{event_id}")

    assert (status, json.loads(body)["delivered_via"]) == (0, "pull")


def without_values(event: dict[str, Any]) -> list[tuple[str, type]]:
    return [(name, type(value)) for name, value in event.items()]


def test_the_quick_start_of_the_readme_works_and_answers_what_it_shows(system: Run) -> None:
    blocks = re.findall(r"^```(?:sh)?\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    commands, shown = "".join(blocks[1:3]), blocks[3]
    commands = commands.replace(":8000", f":{system.port}").replace("trk_…", system.key)

    posted, sent, inbox = shell(commands).splitlines()

    assert without_values(json.loads(posted)) == without_values(json.JSONDecoder().raw_decode(shown)[0])
    assert sent.split(": ")[1] == shown.splitlines()[-2].split(": ")[1]
    assert json.loads(inbox).keys() == json.loads(shown.splitlines()[-1]).keys()


def test_an_unknown_path_is_a_problem_document_that_does_not_repeat_the_key(system: Run) -> None:
    for path in ("/nope", "/events/a/b/c", "/nope%0d%0a?x=1"):
        status, headers, body = system.call("GET", path)

        assert (status, headers["Content-Type"]) == (404, "application/problem+json")
        assert json.loads(body) | {"detail": ""} == {
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "detail": "",
            "code": "not_found",
        }
    assert system.call("GET", "/nope", Authorization="Bearer é")[0] == 404


def test_head_is_answered_like_get_without_a_body(system: Run) -> None:
    (status, headers, body), (_, got, content) = (system.call(method, "/health") for method in ("HEAD", "GET"))

    assert (status, headers["Content-Type"], body) == (200, got["Content-Type"], b"")
    assert int(headers["Content-Length"]) == len(content)


def test_a_chunked_body_is_read_and_the_next_request_after_it(system: Run) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", system.port, timeout=10)) as connection:
        headers = {"Authorization": f"Bearer {system.key}", "Content-Type": "application/json"}
        connection.request("POST", "/events", iter([EVENT[:9].encode(), EVENT[9:].encode()]), headers)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["event_type"]) == (202, "order.created")
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked\r\n\r\nzz", "Content-Length: x\r\n"])
def test_a_body_of_unclear_length_ends_the_connection(system: Run, framing: str) -> None:
    with socket.create_connection(("127.0.0.1", system.port), timeout=5) as connection:
        connection.sendall(f"POST /events HTTP/1.1\r\n{framing}\r\nGET /health HTTP/1.1\r\n\r\n".encode())
        answers = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1 ") == 1


def test_an_event_is_retried_until_the_receiver_recovers(system: Run, printed: list[str]) -> None:
    fail(printed, "status=503&times=2")

    event = post(system)

    short_id = event["event_id"][:12]
    assert event["status"] == "pending"
    for outcome in ("retry", "retry", "delivered"):
        system.wait_for(rf"\S+  {short_id}  ({outcome})")


def test_a_dead_letter_is_linked_leased_and_replayed(system: Run, printed: list[str]) -> None:
    fail(printed, "status=404")

    event_id = post(system)["event_id"]

    link = system.wait_for(rf"\S+  {event_id[:12]}  dead letter .* (http\S+)")
    assert link == f"http://127.0.0.1:{system.port}/#/events/{event_id}?key={system.key}"
    leased = json.loads(paste(printed, "curl .*/inbox/lease.*"))["events"]
    command = found(printed, "^(curl .*/inbox/acknowledge.*)").replace("lse_...", leased[0]["lease_id"])
    answer = json.loads(shell(f"{printed[0]}\n{command.replace('evt_...', event_id)}"))
    assert answer == {"acknowledged": [event_id], "not_held": []}
    assert system.call("POST", f"/events/{event_id}/replay")[0] == 202
    system.wait_for(rf"\S+  {event_id[:12]}  (delivered)")


def test_the_printed_variables_are_the_settings_of_another_process(system: Run, printed: list[str]) -> None:
    words = shlex.split(found(printed, r"^export (AWS_.*)"))

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
    with (
        Receiver() as receiver,
        contextlib.closing(Run([sys.executable, "-m", "tools.run"], ZAPIER_WEBHOOK_URL=receiver.url, **own)) as system,
    ):
        system.key = KEY
        lines = lines_until_ready(system)
        subscription = json.dumps({"target_url": receiver.url})
        assert system.call("POST", "/subscriptions", subscription)[0] == 201
        event = post(system)
        assert receiver.wait_for(2, timeout=10)
        system.end(signal.SIGTERM)
        system.reader.join()
        lines += [line for line in system.lines.queue if line]

    pushed = {request.headers["webhook-id"] for request in receiver.requests}
    assert pushed == {event["event_id"], *event["copies"]}
    assert not [line for line in lines if "secret" in line or digest(KEY) in line]


def test_a_second_start_finds_the_events_of_the_first_which_pull_only_stores_for_consumers(emulator: str) -> None:
    pull_only = {"AWS_ENDPOINT_URL": emulator, "STAGE": "pull", "ZAPIER_WEBHOOK_URL": "none"}
    with running(**pull_only) as first:
        event = post(first)
    with running(**pull_only) as second:
        _, _, body = second.call("GET", "/inbox")

    assert event["status"] == "pending"
    assert event["next_attempt_at"] is None
    assert [item["event_id"] for item in json.loads(body)["events"]] == [event["event_id"]]


def test_all_unusable_variables_are_named_in_one_line() -> None:
    unusable = {
        "API_KEYS": "acme",
        "ZAPIER_WEBHOOK_URL": "http://example.com/secret",
        "WORKER_MAX_CONCURRENCY": "1",
        "STAGE": "a b",
        "LOG_LEVEL": "LOUD",
        "PORT": "http",
    }
    status, output, errors = ended(**unusable)

    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert [name for name in unusable if name not in errors] == []
    assert "secret" not in errors


def test_an_unusable_aws_endpoint_is_one_line() -> None:
    status, output, errors = ended(AWS_ENDPOINT_URL="localhost", **OWN_KEY)

    assert (status, output) == (1, "")
    assert re.fullmatch("make run: AWS_ENDPOINT_URL localhost: .*\n", errors)


def test_an_aws_that_does_not_respond_is_one_line_that_says_what_to_unset() -> None:
    status, output, errors = ended(AWS_ENDPOINT_URL="http://127.0.0.1:9", **OWN_KEY)

    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert "http://127.0.0.1:9" in errors
    assert "unset AWS_ENDPOINT_URL API_KEYS)" in errors


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
