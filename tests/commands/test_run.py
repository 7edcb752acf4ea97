"""`make run`, as a process: what it prints, what it does with the environment, how it ends."""

import contextlib
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.support.checkout import copy_repository
from tests.support.ministack import free_port
from tests.support.receiver import Exchange, Receiver, status
from tests.support.running import Run, ended, running
from tests.support.world import KEY, ROOT, digest
from tools import local_aws

EVENT = '{"event_type": "order.created", "payload": {"order_id": 7}}'
OWN_KEY = {"API_KEYS": f"acme:{digest(KEY)}"}
RUN = (sys.executable, "-m", "tools.run")
# What a stand-in for Svix answers, by the end of the path: an endpoint that loses what can be lost,
# and two others.
SVIX = """{
"/app": {"data": [{"id": "app_1", "uid": "customer-42"}], "done": true},
"/endpoint": {"data": [{"id": "ep_2abc", "url": "URL", "filterTypes": ["order.paid"],
  "description": "CRM, XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX
  and more than a name has", "channels": ["c"], "throttleRate": 5, "metadata": {"a": "b"}}],
  "done": false, "iterator": "1"},
"/endpoint&iterator=1": {"data": [{"id": "ep_2", "url": "URL?2", "description": ""},
  {"id": "ep_3", "disabled": true}], "done": true},
"/headers": {"headers": {"x-api-key": "k"}, "sensitive": ["authorization"]},
"/ep_2abc/secret": {"key": "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"},
"/ep_2/secret": {"key": "whsk_1"},
"/ep_2abc/transformation": {"enabled": true},
"/ep_2abc/msg&status=2": {"data": [{"id": "msg_1", "eventType": "order.paid", "eventId": null,
  "timestamp": "2026-11-30T08:00:00Z"}], "done": true},
"/ep_2abc/msg&status=3": {"data": [], "done": true},
"/ep_2abc": {}
}"""
LOST = "channels throttleRate metadata header transformation description header secret disabled"


@pytest.fixture(scope="module")
def emulator() -> str:
    return local_aws.start_moto()


@pytest.fixture(scope="module")
def printed() -> list[str]:
    return []


@pytest.fixture(scope="module")
def system(printed: list[str]) -> Iterator[Run]:
    """A system with nothing set; `printed` has the lines up to `ready`."""
    with contextlib.closing(Run(RUN)) as run:
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


def commands_of(lines: list[str]) -> str:
    """Return the printed commands, which wait for a push in place of five seconds."""
    commands, _, _ = "\n".join(lines).partition("\n\nconsole")
    wait, show = re.findall("(sleep 5; (curl .*))", commands)[0]
    return commands.replace(
        wait, f"""until {show} | grep 'responded 200.*"3"'; do sleep 0.2; done"""
    )


def shell(commands: str) -> str:
    """Run commands that a user pastes, which must succeed; return their output. make uses this
    Python.
    """
    make = f'make() {{ command make -o .venv/.set-up PY={sys.executable} "$@"; }}'
    status, output, errors = ended("bash", "-ec", f"{make}\n{commands}")
    assert status == 0, errors
    return output


def post(system: Run, **headers: str) -> Any:
    status, _, body = system.call("POST", "/events", EVENT, **headers)
    assert status == 202
    return json.loads(body)


def test_what_is_printed_can_be_pasted_from_top_to_bottom_block_by_block(
    system: Run, printed: list[str]
) -> None:
    commands = commands_of(printed)
    assert "\n#" not in commands  # zsh takes no comments from a terminal
    commands = commands.replace("\n\n", "\necho ----\n") + "\necho ----; env"

    output = shell(commands).split("----\n")

    _, posted, retried, dead, consumed, subscribed, token, dead_letters, redriven, left = output
    for event_id in re.findall(r'evt_\w+(?="|: D)', posted):
        assert f"{event_id}  responded 200, signature ok: " in subscribed
    third = found([retried], r"(evt_\w+): ")
    assert f"{third}  responded 200" in retried
    event_id = found([dead], r"(evt_\w+): ")
    assert re.search(f'"event_id":"{event_id}".*"status":"failed".*\nresponding 200$', dead.strip())
    assert consumed.endswith(f'{{"acknowledged":["{event_id}"],"not_held":[]}}\n')
    subscription_id = found([subscribed], r'"subscription_id":"(\w+)"')
    assert re.search(r"cpy_\w+  responded 200, signature ok: ", subscribed)
    url, _, key = found([token], r"(https?://\S+)").partition("/#key=")
    with urllib3.PoolManager(headers={"Authorization": f"Bearer {key}"}) as customer:
        [subscription] = customer.request("GET", f"{url}/subscriptions").json()["subscriptions"]
    assert subscription["subscription_id"] == subscription_id
    assert re.search(rf"webhook +permanent +1 +\S+Z +{event_id} ", dead_letters)
    assert redriven.endswith("triggers-api-dev-inbox-dlq is empty\n")
    assert "AWS_ENDPOINT_URL" not in left  # which the next make run would use
    assert system.call("DELETE", f"/subscriptions/{subscription_id}")[0] == 204


def test_what_is_printed_where_only_subscriptions_are_pushed_can_be_pasted() -> None:
    with contextlib.closing(Run(RUN, ZAPIER_WEBHOOK_URL="subscriptions")) as run:
        lines = lines_until_ready(run)
        output = shell(commands_of(lines))

    assert re.search(r'cpy_\w+  responded 200, signature ok: {"order_id": "1"}', output)
    assert "CRM (customer-42): no copy: event_types" in output
    assert re.search(r"cpy_\w+  responded 200, signature ok: .*\"3\"", output)
    assert "failed, receiver responded 422" in output
    assert "1 left of 1 event" in output
    assert "/#key=trt_" in output
    assert "triggers-api-dev-inbox-dlq is empty" in output


def test_the_guide_to_moving_in_can_be_pasted_from_top_to_bottom(
    system: Run, printed: list[str], tmp_path: Path
) -> None:
    guide = (ROOT / "docs" / "moving.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```$", guide, re.MULTILINE | re.DOTALL)
    clone = tmp_path / "clone"
    copy_repository(clone)
    (clone / "examples").symlink_to(ROOT / "examples")
    target_url = found(printed, r'"target_url": "(http\S+?)"')
    pages = json.loads(SVIX.replace("URL", target_url), strict=False)
    retried: list[Any] = []  # what was posted there, and waits

    def answer(exchange: Exchange) -> None:
        _, _, asked = exchange.request.path.replace("?limit=250", "").rpartition("/api/v1")
        if asked == "/app/customer-42/msg":
            retried.append({**exchange.request.json(), "id": "msg_2", "timestamp": "2026-12-01"})
            pages["/ep_2abc/msg&status=1"] = {"data": retried, "done": True}
            pages[asked] = {}
        body = next((pages[page] for page in pages if asked.endswith(page)), None)
        status(404 if body is None else 200, body=json.dumps(body).encode())(exchange)

    with Receiver() as svix:
        svix.script(status(429, headers={"Retry-After": "0"}))
        svix.default = answer
        exports = [line for line in printed if line.startswith("export ")]
        exports.append(f"export SVIX_URL=http://127.0.0.1:{svix.port} SVIX_TOKEN=t")
        output = shell("\n".join(["exec 2>&1", f"cd {clone}", *exports, *blocks]))
        patched = [request.json() for request in svix.requests if request.method == "PATCH"]

    lost = re.findall(r"^ep_\w+ \(\S+\) (?:loses|is) (?:the |its )?(\w+)", output, re.MULTILINE)
    assert " ".join(lost) == LOST
    for outcome in ("made (paused)", "there already (paused)"):
        assert f"2 of 2 lines: 2 {outcome}\n" in output
    assert "app_1: post its events with the tenant customer-42" in output
    assert "msg_1 (order.paid, 2026-11-30T08:00:00Z): was posted to Svix alone" in output
    awaited = ['{"subscription_id": "sub_', '{"order_id": "4711"}']
    while awaited:
        payload = system.wait_for(".* received +responded 200, signature ok: (.*)")
        awaited = [text for text in awaited if not payload.startswith(text)]
    assert patched == [{"disabled": True}, {"disabled": False}]


def test_a_wrong_url_of_svix_is_told_at_once_and_what_is_missing() -> None:
    script = str(ROOT / "examples" / "svix_lines.py")
    url = f"http://127.0.0.1:{free_port()}"

    status, output, errors = ended(sys.executable, script, SVIX_URL=url, SVIX_TOKEN="t")
    unset = ended(sys.executable, script, SVIX_URL=url, SVIX_TOKEN="")
    incomplete = ended(sys.executable, script, "app_1", SVIX_URL=url, SVIX_TOKEN="t")

    assert unset == (1, "", "set SVIX_TOKEN\n")
    assert incomplete[2].startswith("give no arguments, or ")
    assert (status, output) == (1, "")
    assert f"asking {url}\n{url}/api/v1/app: no answer" in errors


def without_digits(lines: list[str]) -> list[list[str]]:
    """Return the words of lines, without what differs from run to run."""
    return [re.sub(r"_[0-9a-f]{32}|\d", "", line).split() for line in lines]


def test_the_quick_start_of_the_readme_works_and_answers_what_it_shows(
    system: Run, printed: list[str]
) -> None:
    blocks = re.findall(
        r"^```(?:sh)?\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    variables, commands, shown = blocks[1:4]
    variables = variables.replace(":8000", f":{system.port}").replace("trk_…", system.key)
    target_url = found(printed, r'"target_url": "(http\S+?)"')
    commands = commands.replace("http://localhost:9000/", target_url)
    expected, end = json.JSONDecoder().raw_decode(shown)

    posted, *lines = shell(f"exec 2>&1\n{variables}{commands}").splitlines()
    event = json.loads(posted)
    subscription_id = found(lines, r"(sub_\w+)")
    ids = f"SUBSCRIPTION_ID={subscription_id} EVENT_ID={event['event_id']}"
    sent = shell(f"{variables}make send-to {ids}")

    assert [*event] == [*expected]
    assert without_digits(lines) == without_digits(shown[end:].strip().splitlines())
    copy_id = found([sent], r"(cpy_\w+)")
    system.wait_for(f".* {copy_id} +(attempt .*outcome=delivered)")


def test_smoke_checks_the_worker_if_there_is_a_url_for_its_push_and_leaves_nothing(
    system: Run, printed: list[str]
) -> None:
    exports = f"export TRIGGERS_URL=http://127.0.0.1:{system.port} TRIGGERS_API_KEY={system.key}"
    target_url = found(printed, r'"target_url": "(http\S+?)"')

    def received() -> set[str]:
        shown = urllib3.request("GET", target_url).data.decode()
        return {*re.findall(r"(cpy_\w+)  responded 200, signature ok", shown)}

    before = received()
    output = shell(
        f"{exports}; make smoke STAGE=dev TARGET_URL={target_url}; echo ----; make smoke\n"
        "! make smoke STAGE=prod 2>&1"
    )

    checked, others = output.split("----\n")
    assert len(received() - before) == 2  # a test event, and the copy
    for path in re.findall(r"DELETE (\S+)", output):
        assert system.call("GET", path)[0] == 404
    assert "not checked" not in checked
    assert "\nnot checked: whether " in others
    assert "\nError: TRIGGERS_URL is not of prod: " in others


def test_an_unknown_path_is_a_problem_document_that_does_not_repeat_the_key(system: Run) -> None:
    for path in ("/nope", "/events/a/b/c", "/nope%0d%0a?x=1"):
        status, headers, body = system.call("GET", path)

        assert status == 404
        assert headers["Content-Type"] == "application/problem+json"
        assert json.loads(body)["code"] == "not_found"
        assert system.key not in body.decode()
    assert system.call("GET", "/nope", Authorization="Bearer é")[0] == 404
    assert system.call("PUT", "/events")[0] == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_make_and_the_system_within_five_seconds(
    emulator: str, number: signal.Signals
) -> None:
    make = ["make", "--no-print-directory", "-o", ".venv/.set-up", f"PY={sys.executable}", "run"]
    with running(command=make, AWS_ENDPOINT_URL=emulator, MAKEFLAGS="", MAKELEVEL="0") as system:
        if number == signal.SIGINT:  # what a terminal does with Ctrl-C
            os.killpg(system.process.pid, number)
        system.end(number)

        with pytest.raises(ProcessLookupError):
            os.killpg(system.process.pid, 0)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", system.port), timeout=1)


def test_what_is_set_is_used_and_secrets_are_not_printed(
    emulator: str, receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    own = {
        "AWS_ENDPOINT_URL": emulator,
        "STAGE": "own",
        "ZAPIER_WEBHOOK_URL": receiver.url,
        "MAX_DELIVERY_ATTEMPTS": "7",
    }
    with contextlib.closing(Run(RUN, **own, **OWN_KEY)) as system:
        system.key = KEY
        lines = lines_until_ready(system)
        event = post(system)
        subscription = json.dumps({"target_url": receiver.url, "event_types": ["other"]})
        subscribed, _, _ = system.call("POST", "/subscriptions", subscription)
        system.end(signal.SIGTERM)
        system.reader.join()
        lines += [line for line in system.lines.queue if line]

    assert [request.headers["webhook-id"] for request in receiver.requests] == [event["event_id"]]
    assert subscribed == 201
    assert capfd.readouterr().err == ""
    [exported] = [line for line in lines if line.startswith("export AWS_ENDPOINT_URL=")]
    assert "STAGE=own" in exported.split()
    assert "MAX_DELIVERY_ATTEMPTS=7" in exported.split()
    assert ': "and, as they are set for make run: ZAPIER_WEBHOOK_URL API_KEYS"' in lines
    assert not re.search(f"receive_message|secret|{digest(KEY)}", "".join(lines))


def test_it_uses_no_table_that_the_configuration_names_on_aws(
    emulator: str, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    copy_repository(clone)
    config = clone / ".chalice" / "config.json"
    content = json.loads(config.read_text())
    variables = content["stages"]["dev"]["environment_variables"]
    variables["EVENTS_TABLE_NAME"] = "triggers-api-dev-events-2"
    variables["INBOX_QUEUE_URL"] = "https://sqs.us-east-1.amazonaws.com/1/inbox"
    config.write_text(json.dumps(content))

    run = ("sh", "-c", 'cd "$0" && exec "$@"', str(clone), *RUN)

    with contextlib.closing(Run(run, AWS_ENDPOINT_URL=emulator, **OWN_KEY)) as system:
        system.key = KEY
        lines_until_ready(system)
        assert post(system)["status"] == "delivered"

    config.unlink()
    status, _, errors = ended(*run, AWS_ENDPOINT_URL=emulator)
    assert (status, errors.count("\n")) == (1, 1)
    assert errors.startswith("make run: .chalice/config.json cannot be read: ")


UNUSABLE = {
    "ZAPIER_WEBHOOK_URL": "http://example.com/s3cr3t",
    "WORKER_MAX_CONCURRENCY": "1",
}


@pytest.mark.parametrize(
    "variables, words",
    [
        (UNUSABLE, [f"{name} is unusable: it must" for name in UNUSABLE]),
        ({"SETTINGS_SECRET": "absent"}, ["SETTINGS_SECRET is unusable: it"]),
        ({"AWS_ENDPOINT_URL": "localhost"}, ["make run: AWS_ENDPOINT_URL localhost: "]),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, ["http://127.0.0.1:9"]),
        *(({"PORT": port}, [f"make run: PORT {port}"]) for port in ("http", "70000")),
        ({"PORT": "in use"}, ["make run: PORT "]),  # becomes that of the emulator
    ],
    ids=" ".join,
)
def test_what_keeps_it_from_starting_is_one_line(
    emulator: str, variables: dict[str, str], words: list[str]
) -> None:
    given = {"AWS_ENDPOINT_URL": emulator, **variables}
    port = given.get("PORT", "0").replace("in use", emulator.rpartition(":")[2])

    status, output, errors = ended(*RUN, **{**given, "PORT": port})

    assert status == 1
    assert errors.count("\n") == 1
    assert "ready" not in output
    assert [word for word in words if word not in errors] == []
    assert "s3cr3t" not in errors


def test_chalice_local_fails_with_one_line_for_an_unusable_setting() -> None:
    chalice = str(Path(sys.executable).with_name("chalice"))

    status, _, errors = ended(chalice, "local", "--port", "0", MAX_DELIVERY_ATTEMPTS="many")

    assert status != 0  # that of SIGTERM, by which the worker of Chalice's reloader ends it
    assert errors == "MAX_DELIVERY_ATTEMPTS is unusable: it must be an integer from 1 to 1000\n"


@pytest.mark.parametrize(
    "name, code",
    [
        ("SETTINGS_SECRET", 0),
        ("BACKOFF_CAP_SECONDS", 0),
        ("TRIGGERS_API_KEY", 0),
        ("TRIGGERS_UR", 2),
        ("WEBHOOK", 2),
    ],
)
def test_make_run_takes_settings_and_nothing_else(name: str, code: int) -> None:
    status, _, errors = ended("make", "-n", "run", f"{name}=1")

    assert status == code, errors


def test_set_up_does_not_empty_a_folder_to_which_the_venv_links(tmp_path: Path) -> None:
    for part in ("Makefile", "requirements.txt", "requirements"):
        (tmp_path / part).symlink_to(ROOT / part)
    target = tmp_path / "target"
    target.mkdir()
    kept = target / "kept"
    kept.touch()
    (tmp_path / ".venv").symlink_to(target)

    status, _, errors = ended("make", "-C", str(tmp_path), "signing-secret", MAKEFLAGS="")

    assert status == 2
    assert ".venv is a symbolic link" in errors
    assert kept.exists()
