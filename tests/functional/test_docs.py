"""The documents hold: their snippets run against real pushes, their links lead somewhere, their commands exist."""

import ast
import importlib.util
import itertools
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import pytest
from chalice.config import Config
from standardwebhooks import WebhookVerificationError

import app
from chalicelib.backoff import delay_seconds
from chalicelib.push import Result, outcome_of
from chalicelib.settings import SettingsError, load, load_event_source
from tests.support.receiver import Receiver, status
from tests.support.world import CONSUMER_KEY, ROOT, World
from tools import server
from tools.ops.__main__ import main as ops

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
RECEIVING, ZAPIER = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("receiving.md", "zapier.md"))
SECRET = "whsec_ZXhhbXBsZQ=="
OTHER_SECRET = "whsec_YW5vdGhlciBzZWNyZXQ="
EXAMPLE = '{"event_type": "order.created", "payload": {"order_id": "12345"}, "metadata": {"source": "shop"}}'
NODE = shutil.which("node") or ""
DAY_SECONDS = 86_400

needs_node = pytest.mark.skipif(not NODE, reason="node is not installed")
PYTHON_AND_NODE = [pytest.param("py", id="python"), pytest.param("js", id="node", marks=needs_node)]

Headers = Mapping[str, str]
Verify = Callable[[Headers, bytes], bool]


# Reading documents


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield language and text of each fenced block."""
    for match in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        yield match[2], match[3]


def snippets(text: str) -> dict[str, str]:
    """Return the blocks that begin with a file name in a comment."""
    named = ((re.match(r"(?:#|//) ([\w.]+)\n", code), code) for _, code in blocks(text))
    return {match[1]: code for match, code in named if match}


def without_blocks(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)


def code_of(text: str) -> list[str]:
    """Return what stands in code: each line of the blocks, each span."""
    lines = [line for _, code in blocks(text) for line in code.splitlines()]
    return lines + re.findall(r"`([^`]+)`", without_blocks(text))


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ (.+)$", without_blocks(text), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if name in found else name)
        found[name] = found.get(name, 0) + 1
    return names


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table under a heading."""
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    table = re.findall(r"^\|(.+)\|$", section, re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in table[2:]]


def seconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


# Links, commands, settings


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    text = re.sub(r"`[^`]+`", "", without_blocks(document.read_text(encoding="utf-8")))
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    lost = []
    for target in targets:
        path, _, anchor = target.partition("#")
        if re.match(r"https?:|mailto:", target):
            continue
        linked = document.parent / path if path else document
        if not linked.exists() or (anchor and anchor not in anchors(linked.read_text(encoding="utf-8"))):
            lost.append(target)
    assert not lost


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_make_target_that_is_named_exists(document: Path) -> None:
    code = code_of(document.read_text(encoding="utf-8"))
    named = {target for line in code for target in re.findall(r"\bmake(?: [A-Z]+=\S+)* ([a-z][a-z0-9-]*)", line)}
    made = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= made


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_tool_that_is_named_exists_with_its_command_and_its_options(document: Path) -> None:
    for line in code_of(document.read_text(encoding="utf-8")):
        for module, arguments in re.findall(r"python3? -m (tools[\w.]*)([^#]*)", line):
            assert importlib.util.find_spec(module), line
            words = arguments.split()
            if module != "tools.ops" or not words:
                continue
            command = ops.get_command(click.Context(ops), words[0])
            assert command, line
            options = {option for parameter in command.params for option in parameter.opts}
            assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, line


def test_what_is_quoted_from_the_code_stands_there() -> None:
    for language, code in blocks((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        if language == "python":
            name, _, quoted = code.partition("\n")
            lines = (ROOT / name.removeprefix("# ")).read_text(encoding="utf-8").splitlines()
            dedented = "\n".join(line.strip() for line in lines)
            assert "\n".join(line.strip() for line in quoted.splitlines()) in dedented, name


def test_every_file_that_is_named_exists() -> None:
    pattern = r"(?:\.chalice|app|chalicelib|docs|tests|tools|resources|requirements)[\w./-]*\.(?:py|json|md|txt|in)"
    for document in DOCUMENTS:
        named = {name for code in code_of(document.read_text(encoding="utf-8")) for name in re.findall(pattern, code)}
        assert [name for name in sorted(named) if "/" in name and not (ROOT / name).exists()] == [], document.name


def test_the_settings_in_the_readme_are_those_that_are_read() -> None:
    names = set()

    class Environ(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            names.add(name)
            return default

    environ = Environ()
    with pytest.raises(SettingsError):
        load(environ)
    load_event_source(environ)

    table = rows((ROOT / "README.md").read_text(encoding="utf-8"), "Settings")
    assert {name for row in table for name in re.findall(r"`(\w+)`", row[0])} == names


def test_the_key_has_one_name_in_all_documents() -> None:
    others = {
        document.name for document in DOCUMENTS if re.search(r"\bAPI_KEY\b", document.read_text(encoding="utf-8"))
    }
    assert not others


def test_every_source_that_is_cited_is_listed_and_the_other_way_round() -> None:
    text, sources = ZAPIER.split("\n## Sources\n")
    cited = {int(number) for number in re.findall(r"\[(\d+)\](?!\()", without_blocks(text))}
    listed = {int(number) for number in re.findall(r"^(\d+)\. ", sources, re.MULTILINE)}
    assert cited == listed


# What a receiver is told


def test_the_request_that_is_shown_is_the_one_that_arrives(world: World, receiver: Receiver) -> None:
    world.restart(WEBHOOK_SIGNING_SECRETS=SECRET)
    world.call("POST", "/events", EXAMPLE, idempotency_key="order-12345")

    shown = next(code for language, code in blocks(RECEIVING) if language == "http")
    head, _, body = shown.partition("\n\n")
    [request] = receiver.requests
    assert body.rstrip("\n").encode() == request.body
    headers = dict(line.split(": ", 1) for line in head.splitlines()[1:])
    arrived = {**request.headers, "host": headers["Host"], "user-agent": headers["User-Agent"]}
    assert {name.lower(): value for name, value in headers.items()} == arrived
    assert re.sub(r"[\d.]+", "", headers["User-Agent"]) == re.sub(r"[\d.]+", "", request.headers["user-agent"])
    assert SECRET in RECEIVING


def test_the_schedule_is_the_one_that_is_kept() -> None:
    unset = MappingProxyType(
        {
            "EVENTS_TABLE_NAME": "events",
            "INBOX_QUEUE_URL": "http://127.0.0.1/inbox",
            "INBOX_DLQ_URL": "http://127.0.0.1/dlq",
            "ZAPIER_WEBHOOK_URL": "http://127.0.0.1/",
            "API_KEYS": "",
        }
    )
    settings = load(unset)

    def schedule(random: float) -> list[float]:
        base, cap = settings.backoff_base_seconds, settings.backoff_cap_seconds
        attempts = range(1, settings.max_delivery_attempts)
        return [delay_seconds(attempt, base=base, cap=cap, random=lambda: random) for attempt in attempts]

    least, most = schedule(0.0), schedule(1.0)
    table = rows(RECEIVING, "When attempts come")
    assert int(table[-1][0]) == settings.max_delivery_attempts
    for attempt, after_the_last, after_the_first in table:
        waits = int(attempt) - 1
        real = [least[waits - 1], most[waits - 1], sum(least[:waits]), sum(most[:waits])]
        told = [seconds(text) for cell in (after_the_last, after_the_first) for text in cell.split(" to ")]
        assert told == pytest.approx(real, rel=0.06)  # one decimal


def test_a_status_code_means_what_the_table_says() -> None:
    seen = set()
    for answers, outcome, _ in rows(RECEIVING, "What to answer"):
        for code in re.findall(r"\b\d{3}\b", answers):
            assert outcome_of(int(code)) is Result(outcome), code
            seen.add(Result(outcome))
    assert seen == set(Result)


# Receivers


@pytest.fixture
def now(world: World) -> float:
    """Set the world's clock right: receivers go by the real time."""
    world.clock.now = time.time()
    return world.clock.now


@contextmanager
def running_receiver(language: str, directory: Path) -> Iterator[tuple[int, Callable[[], str]]]:
    """Run the receiver as it is told, in `directory`; give its port, and what ends it and returns what it printed."""
    for name, code in snippets(RECEIVING).items():
        (directory / name).write_text(code, encoding="utf-8")
    command = [sys.executable, "receiver.py"] if language == "py" else [NODE, "receiver.mjs"]
    environ = {**os.environ, "PORT": "0", "SIGNING_SECRET": SECRET}
    with subprocess.Popen(
        command, cwd=directory, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        try:
            line = process.stdout.readline()
            assert line, "the receiver did not start"

            def end() -> str:
                process.kill()
                return process.communicate()[0]

            yield int(line.rsplit(" ", 1)[1]), end
        finally:
            process.kill()


def leave_in_the_middle(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST /hook HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")


@pytest.mark.parametrize("language", PYTHON_AND_NODE)
def test_the_receiver_takes_each_event_once(world: World, now: float, tmp_path: Path, language: str) -> None:
    with running_receiver(language, tmp_path) as (port, end):
        world.restart(ZAPIER_WEBHOOK_URL=f"http://127.0.0.1:{port}/hook", WEBHOOK_SIGNING_SECRETS=SECRET)
        leave_in_the_middle(port)
        first, second = world.post({"order_id": "1"}), world.post({"order_id": "2"})
        world.call("POST", f"/events/{first['event_id']}/replay")
        world.run_worker()
        again = world.event(first["event_id"])
        printed = end()

    assert [event["status"] for event in (first, second, again)] == ["delivered"] * 3
    assert [attempt["status_code"] for attempt in again["attempts"]] == [204, 204]
    if language == "py":
        with closing(sqlite3.connect(tmp_path / "events.db")) as store:
            taken = [row[0] for row in store.execute("SELECT webhook_id FROM events ORDER BY rowid")]
    else:
        taken = re.findall(r"^event (\S+)$", printed, re.MULTILINE)
    assert taken == [first["event_id"], second["event_id"]]


@pytest.mark.parametrize("language", PYTHON_AND_NODE)
def test_the_receiver_refuses_what_is_signed_with_another_secret(
    world: World, now: float, tmp_path: Path, language: str
) -> None:
    with running_receiver(language, tmp_path) as (port, _):
        world.restart(ZAPIER_WEBHOOK_URL=f"http://127.0.0.1:{port}/hook", WEBHOOK_SIGNING_SECRETS=OTHER_SECRET)
        event = world.event(world.post()["event_id"])

    assert (event["status"], event["attempts"][0]["status_code"]) == ("failed", 401)


def python_verify(secret: str) -> Verify:
    names: dict[str, Any] = {}
    exec(snippets(RECEIVING)["verify.py"], names)
    return lambda headers, body: bool(names["is_genuine"](headers, body, secret))


def library_verify(secret: str) -> Verify:
    names: dict[str, Any] = {}
    exec(snippets(RECEIVING)["verify_with_library.py"], names)

    def verify(headers: Headers, body: bytes) -> bool:
        try:
            return bool(names["Event.from_item"](headers, body, secret) == json.loads(body))
        except (WebhookVerificationError, ValueError):  # not of the form, too
            return False

    return verify


def node_verify(secret: str) -> Verify:
    driver = """
    const { headers, body, secret } = JSON.parse(require("fs").readFileSync(0));
    process.stdout.write(JSON.stringify(isGenuine(headers, Buffer.from(body, "latin1"), secret)));
    """
    code = snippets(RECEIVING)["verify.mjs"].replace("export ", "")
    code = re.sub(r"^import (.*) from (.*);$", r"const \1 = require(\2);", code, flags=re.MULTILINE)
    return lambda headers, body: bool(
        run_node(code + driver, {"headers": dict(headers), "body": body.decode("latin-1"), "secret": secret})
    )


def run_node(code: str, given: object) -> Any:
    done = subprocess.run([NODE, "-e", code], input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


VERIFIERS = [
    pytest.param(python_verify, id="python"),
    pytest.param(library_verify, id="library"),
    pytest.param(node_verify, id="node", marks=needs_node),
]


def pushed(world: World, receiver: Receiver, *secrets: str, seconds_ago: float = 0) -> tuple[dict[str, str], bytes]:
    """Return headers and body of a real push, made so long ago."""
    world.clock.now = time.time() - seconds_ago
    world.restart(WEBHOOK_SIGNING_SECRETS=" ".join(secrets))
    assert world.post({"price": "12 €"})["status"] == "delivered"
    request = receiver.requests[-1]
    return dict(request.headers), request.body


@pytest.mark.parametrize("make_verify", VERIFIERS)
def test_a_real_push_verifies_while_secrets_change_too(
    world: World, receiver: Receiver, make_verify: Callable[[str], Verify]
) -> None:
    verify = make_verify(SECRET)
    for secrets in ([SECRET], [SECRET, OTHER_SECRET], [OTHER_SECRET, SECRET]):
        assert verify(*pushed(world, receiver, *secrets)), secrets
    assert verify(*pushed(world, receiver, SECRET, seconds_ago=240))


@pytest.mark.parametrize("make_verify", VERIFIERS)
def test_what_is_forged_old_or_unsigned_does_not_verify(
    world: World, receiver: Receiver, make_verify: Callable[[str], Verify]
) -> None:
    verify = make_verify(SECRET)
    headers, body = pushed(world, receiver, SECRET)
    assert verify(headers, body)

    signed = [name for name in headers if name.startswith("webhook-")]
    odd_timestamps = ("", "soon", "1e9", "-1", "9" * 5000)
    odd_signatures = ("", "v1,", "v1,é", headers["webhook-signature"].replace("v1", "v2"))
    forged = [
        (headers, body + b" "),
        ({**headers, "webhook-id": "evt_" + "0" * 32}, body),
        *(({name: value for name, value in headers.items() if name != missing}, body) for missing in signed),
        *(({**headers, "webhook-timestamp": odd}, body) for odd in odd_timestamps),
        *(({**headers, "webhook-signature": odd}, body) for odd in odd_signatures),
        pushed(world, receiver, OTHER_SECRET),
        pushed(world, receiver),
        pushed(world, receiver, SECRET, seconds_ago=360),
        pushed(world, receiver, SECRET, seconds_ago=-360),
    ]
    assert [verify(*request) for request in forged] == [False] * len(forged)


# Zapier


def zapier_code(language: str, input_data: dict[str, str]) -> Any:
    """Return the `output` of a Code step, which is given text alone."""
    if language == "py":
        names: dict[str, Any] = {"input_data": input_data}
        exec(snippets(ZAPIER)["zapier_verify.py"], names)
        return names["output"]
    driver = """
    const { code, inputData } = JSON.parse(require("fs").readFileSync(0));
    const step = new Function("inputData", "require", `let output; ${code}; return output;`);
    process.stdout.write(JSON.stringify(step(inputData, require)));
    """
    return run_node(driver, {"code": snippets(ZAPIER)["zapier_verify.js"], "inputData": input_data})


def input_data_of(headers: Headers, body: bytes, secret: str = SECRET) -> dict[str, str]:
    """Return the fields of Catch Raw Hook as they are mapped; a header that is missing gives no key."""
    fields = {"webhook_id": "webhook-id", "timestamp": "webhook-timestamp", "signatures": "webhook-signature"}
    mapped = {name: headers[header] for name, header in fields.items() if header in headers}
    return {**mapped, "raw_body": body.decode(), "secret": secret}


@pytest.mark.parametrize("language", PYTHON_AND_NODE)
def test_the_code_step_tells_a_real_push_from_a_forged_one(world: World, receiver: Receiver, language: str) -> None:
    genuine = pushed(world, receiver, OTHER_SECRET, SECRET)
    late = pushed(world, receiver, SECRET, seconds_ago=3600)
    forged = [
        (genuine[0], genuine[1].replace(b"12", b"13")),
        (genuine[0] | {"webhook-timestamp": "soon"}, genuine[1]),
        (genuine[0], b"no JSON"),
        pushed(world, receiver, OTHER_SECRET),
        pushed(world, receiver),
        pushed(world, receiver, SECRET, seconds_ago=DAY_SECONDS + 60),
    ]

    for headers, body in (genuine, late):
        assert zapier_code(language, input_data_of(headers, body)) == {"genuine": True, "event": json.loads(body)}
    for request in forged:
        assert zapier_code(language, input_data_of(*request)) == {"genuine": False, "event": None}


def test_the_python_of_code_steps_is_that_of_python_3_7() -> None:
    for name in ("zapier_verify.py", "zapier_inbox.py"):
        ast.parse(snippets(ZAPIER)[name], feature_version=(3, 7))


@pytest.fixture
def api_url(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The world's API over real HTTP."""
    monkeypatch.setattr(app.app, "__class__", app.app.__class__)  # the server's own class goes when it goes
    serving = server.create_server(app.app, Config.create(), 0).server
    thread = threading.Thread(target=serving.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    serving.server_close()
    thread.join()


def test_the_code_step_reads_the_inbox_until_it_is_acknowledged(world: World, receiver: Receiver, api_url: str) -> None:
    receiver.default = status(410)
    event_ids = []
    for number in range(2):
        event_ids.append(world.post({"number": number})["event_id"])
        world.clock.sleep(1)  # events of one moment come in the order of their ids

    def step() -> Any:
        names: dict[str, Any] = {"input_data": {"api_url": f"{api_url}/", "api_key": CONSUMER_KEY}}
        exec(snippets(ZAPIER)["zapier_inbox.py"], names)
        return names["output"]

    assert [(event["event_id"], event["payload"]["number"]) for event in step()] == list(
        zip(event_ids, range(2), strict=True)
    )
    for event_id, _ in itertools.product(event_ids, range(2)):
        # Zapier's POST may carry a form, whatever it holds.
        answer = world.call(
            "POST",
            f"/events/{event_id}/acknowledge",
            f"event_id={event_id}",
            key=CONSUMER_KEY,
            content_type="application/x-www-form-urlencoded",
        )
        assert answer.status_code == 204
    assert step() == {"event_id": ""}


def test_a_poll_has_the_newest_event_first_and_the_key_that_zapier_falls_back_to(
    world: World, receiver: Receiver
) -> None:
    receiver.default = status(410)
    event_ids = []
    for number in range(3):
        event_ids.append(world.post({"id": number})["event_id"])
        world.clock.sleep(1)
    path = re.search(r"`https://\S+/api(/inbox\S+)`", ZAPIER)
    assert path

    events = world.call("GET", path[1], key=CONSUMER_KEY).json["events"]

    assert [event["event_id"] for event in events] == event_ids[::-1]
    assert min((key for key in events[0] if "id" in key), key=len) == "event_id"
    assert world.call("GET", path[1].replace("100", "101"), key=CONSUMER_KEY).status_code == 400
