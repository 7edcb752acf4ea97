"""The documents: links resolve, commands exist, settings are complete, and the code of the guides
runs.
"""

import base64
import contextlib
import hmac
import json
import os
import re
import runpy
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
import urllib3

from chalicelib.settings import BY_VARIABLE, decode_secret
from chalicelib.web.validation import MAX_BODY_BYTES
from tests.support.aws_calls import Aws
from tests.support.loopback import serve_app
from tests.support.ministack import free_port
from tests.support.packages import install_from_npm
from tests.support.receiver import Receiver
from tests.support.world import CONSUMER_KEY, KEY, ROOT, SIGNING_SECRETS, World, digest

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXTS = {document: document.read_text(encoding="utf-8") for document in DOCUMENTS}
GUIDES = [
    TEXTS[ROOT / "docs" / f"{name}.md"]
    for name in ("api", "receiving", "consuming", "customers", "moving")
]
SNIPPET = re.compile(r"^```\w+\n((?:#|//) ([\w.]+)\n.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPETS = {name: code for guide in GUIDES for code, name in SNIPPET.findall(guide)}
Pushed = tuple[dict[str, str], bytes]  # the headers and the body of a push
EVENT_WITHOUT_TEXT = json.dumps(
    {"event_type": "order.created", "payload": {"price": ""}, "tenant": "customer-42"}
)
EXAMPLES = ROOT / "examples"
# How the receiver of each language is started. `make test` runs those of the guide.
RECEIVERS = {
    "python": (sys.executable, "receiver.py"),
    "node": ("node", "receiver.js"),
    "express": ("node", "express_receiver.js"),
    "go": ("go", "run", f"{EXAMPLES}/receivers/receiver.go"),
    "ruby": ("puma", "-b", "tcp://127.0.0.1:PORT", f"{EXAMPLES}/receivers/receiver.ru"),
    "php": ("php", "-S", "127.0.0.1:PORT", f"{EXAMPLES}/receivers/receiver.php"),
    "java": ("java", f"{EXAMPLES}/receivers/Receiver.java"),
}

MAILER = {"mail": (sys.executable, "mail_customers.py")}


def without_blocks(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)


def code_lines(text: str) -> list[str]:
    """Return the lines of code blocks, and the code spans."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()] + re.findall(
        r"`([^`]+)`", without_blocks(text)
    )


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings, which are unique."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_resolve_and_make_targets_and_modules_exist(document: Path) -> None:
    text = re.sub(r"`[^`]+`", "", without_blocks(TEXTS[document]))
    for path, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        linked = document.parent / path if path else document
        assert linked.exists(), path
        assert not anchor or anchor in anchors(linked.read_text(encoding="utf-8")), anchor
    code = "\n".join(code_lines(TEXTS[document]))
    targets = set(
        re.findall(
            r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    assert set(re.findall(r"\bmake(?: [A-Z_]+=\S+)* ([a-z][a-z0-9-]*)", code)) <= targets
    for module in re.findall(r"python3? -m (tools[\w.]*)", code):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or path.is_dir(), module


def test_the_table_of_settings_is_complete() -> None:
    names = BY_VARIABLE.keys() | {"SETTINGS_SECRET"}
    tables = [
        row for text in TEXTS.values() for row in re.findall(r"^\|([^|]+)\|", text, re.MULTILINE)
    ]
    assert names <= {name for cell in tables for name in re.findall(r"`([\w.]+)`", cell)}


def test_no_twelve_words_in_a_row_stand_in_two_documents() -> None:
    runs: Counter[str] = Counter()
    for document, text in TEXTS.items():
        if document.name != "CHANGELOG.md":
            words = re.findall(r"[\w'-]+", text.lower())
            runs.update({" ".join(words[at : at + 12]) for at in range(len(words) - 11)})
    assert [run for run, documents in runs.items() if documents > 1] == []


# The guides for receivers, consumers and operators


@pytest.fixture
def snippets(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve the API, set its users' variables, and enter a folder with the guide's code, in which
    it is imported.
    """
    for name, code in SNIPPETS.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TRIGGERS_API_KEY", CONSUMER_KEY)
    with serve_app() as port:
        monkeypatch.setenv("TRIGGERS_URL", f"http://127.0.0.1:{port}")
        yield
    sys.modules.pop("client", None)


def pushed(
    world: World,
    receiver: Receiver,
    *secrets: str,
    seconds_ago: float = 0,
    text: str = "12 €",
) -> Pushed:
    world.clock.now = time.time() - seconds_ago
    world.restart(WEBHOOK_SIGNING_SECRETS=" ".join(secrets))
    event = {"event_type": "order.created", "payload": {"price": text}, "tenant": "customer-42"}
    assert world.offer(event).status_code == 202
    [*_, request] = receiver.requests
    names = ["content-type", *(name for name in request.headers if name.startswith("webhook-"))]
    return {name: request.headers[name] for name in names}, request.body


@contextlib.contextmanager
def started(language: str) -> Iterator[str]:
    """Run the receiver of a language until the end of the block; yield its URL."""
    port = str(free_port())
    command = [word.replace("PORT", port) for word in (RECEIVERS | MAILER)[language]]
    variables = {**os.environ, "SECRET": SIGNING_SECRETS[0], "PORT": port}
    with subprocess.Popen(command, env=variables, start_new_session=True) as process:
        try:
            yield f"http://127.0.0.1:{port}/hook"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.timeout(180)  # of `go run`, which compiles
@pytest.mark.parametrize("language", RECEIVERS)
@pytest.mark.usefixtures("snippets")
def test_receivers_take_genuine_pushes_and_refuse_forged_ones(
    language: str,
    world: World,
    receiver: Receiver,
    target: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if language not in ("python", "node") and "LANGUAGES" not in os.environ:
        pytest.skip("`make languages` runs it")
    if not shutil.which(RECEIVERS[language][0]):
        pytest.skip(f"{RECEIVERS[language][0]} is not installed")
    if language in ("node", "express"):
        monkeypatch.setenv("NODE_PATH", str(install_from_npm()))
    secret = SIGNING_SECRETS[0]
    world.subscribe(target, tenant="customer-42", body="payload", secret=secret)
    headers, body = push = pushed(world, receiver, secret)
    genuine = [
        push,
        pushed(world, receiver, *SIGNING_SECRETS),
        pushed(world, receiver, secret, seconds_ago=240),
        pushed(world, receiver, secret, text="x" * (MAX_BODY_BYTES - len(EVENT_WITHOUT_TEXT))),
        pushed(world, target, secret),
    ]
    forged = [
        (headers, body + b" "),
        (headers, b"\xff"),
        ({**headers, "webhook-signature": "v1"}, body),
        pushed(world, receiver),
        pushed(world, receiver, secret, seconds_ago=360),
        pushed(world, receiver, SIGNING_SECRETS[1]),
    ]
    until_it_listens = urllib3.Retry(900, backoff_factor=0.1, backoff_max=0.1)

    def answers(pushes: list[Pushed]) -> list[int]:
        call = partial(urllib3.request, "POST", url, retries=until_it_listens)
        return [call(headers=headers, body=body).status for headers, body in pushes]

    with started(language) as url:
        statuses = answers(genuine)
        with socket.create_connection(("127.0.0.1", urllib3.util.parse_url(url).port)) as client:
            client.sendall(b"POST /hook HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
        statuses += answers(forged)

    assert len(genuine[3][1]) > MAX_BODY_BYTES
    assert genuine[4][1] == '{"price":"12 €"}'.encode()
    assert statuses == [204] * len(genuine) + [401] * len(forged)


@pytest.mark.parametrize("length", [8, 24, 50, 64, 65, 200])
@pytest.mark.usefixtures("snippets")
def test_a_secret_of_any_form_becomes_one_that_signs_alike(length: int) -> None:
    own = b"s" * length
    key = decode_secret(runpy.run_path("whsec.py")["whsec"](own))
    assert hmac.digest(key, b"body", "sha256") == hmac.digest(own, b"body", "sha256")


@pytest.mark.usefixtures("snippets")
def test_the_content_of_an_exported_item_is_decoded(world: World) -> None:
    event = world.post({"price": "12 €"})
    content = world.item(event["event_id"])["content"]["B"]
    line = json.dumps({"Item": {"content": {"B": base64.b64encode(content).decode()}}})
    assert runpy.run_path("export.py")["decode"](line) == ({"price": "12 €"}, None)


@pytest.mark.usefixtures("snippets")
def test_a_product_gives_a_customer_the_page_of_its_webhooks(world: World) -> None:
    world.clock.now = time.time()

    product = runpy.run_path("customers.py")

    page, _, token = product["webhooks_page"]("customer-42").partition("#key=")
    assert page == f"{os.environ['TRIGGERS_URL']}/"
    assert world.get("/me", key=token)["tenant"] == "customer-42"


class MailServer(socketserver.StreamRequestHandler):
    """Takes one mail over SMTP (RFC 5321), and adds it to `mails`."""

    mails: ClassVar[list[str]] = []

    def handle(self) -> None:
        self.wfile.write(b"220 ready\r\n")
        for line in self.rfile:
            command = line[:4].upper()
            if command == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                self.mails.append(b"".join(lines).decode())
            self.wfile.write(b"221 bye\r\n" if command == b"QUIT" else b"250 done\r\n")


@pytest.mark.usefixtures("snippets")
def test_a_customer_is_mailed_when_its_webhook_ends(
    world: World, receiver: Receiver, target: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.clock.now = time.time()  # by which the program judges a signature
    target.default = 410
    world.subscribe(target, tenant="customer-42", name="CRM")
    with socketserver.TCPServer(("127.0.0.1", 0), MailServer) as mail_server:
        Thread(target=mail_server.serve_forever).start()
        monkeypatch.setenv("MAIL_SERVER", f"127.0.0.1:{mail_server.server_address[1]}")
        monkeypatch.setenv("MAIL_FROM", "webhooks@example.com")
        with started("mail") as url:
            secret = SIGNING_SECRETS[0]
            made = world.subscribe(url, "triggers.subscription.*", secret=secret)
            assert made.status_code == 201, made.text
            until_it_listens = urllib3.Retry(900, backoff_factor=0.1, backoff_max=0.1)
            forged = urllib3.request("POST", url, body=b"{}", retries=until_it_listens)
            world.post_for("customer-42")
            world.empty_inbox()
        mail_server.shutdown()

    assert forged.status == 401
    [mail] = MailServer.mails
    assert "To: developers@customer-42.example" in mail
    assert "Subject: Your webhook CRM is disabled" in mail
    assert "Its last error: receiver responded 410" in mail


@pytest.mark.usefixtures("snippets")
def test_producers_repeat_a_call_until_it_is_accepted_or_refused(
    world: World, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIGGERS_API_KEY", KEY)
    programs = [(sys.executable, "post.py")] + [("node", f"{EXAMPLES}/post.js")] * bool(
        shutil.which("node")
    )
    run = partial(subprocess.run, capture_output=True, text=True, check=False)
    aws.fail("PutItem")
    with ThreadPoolExecutor() as pool:
        accepted = pool.map(run, programs)
        while aws.faults < len(programs):
            pass  # until the test's time is over
        aws.heal()
    world.restart(API_KEYS="")
    refused = map(run, programs)

    [event] = world.items()
    assert {ended.stdout for ended in accepted} == {event["event_id"]["S"] + "\n"}
    for ended in refused:
        assert ended.stdout == ""
        assert '"code":"unauthorized"' in ended.stderr


@pytest.mark.usefixtures("snippets")
def test_the_consumer_survives_trouble_leases_processes_and_acknowledges(
    world: World, receiver: Receiver
) -> None:
    receiver.default = 422
    event_ids = {world.post({"n": number})["event_id"] for number in range(3)}
    world.restart(API_KEYS="")
    consumer_code = SNIPPETS["consumer.py"].replace("time.sleep(5)", "time.sleep(0.01)")
    command = [sys.executable, "-c", consumer_code]

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as consumer:
        assert consumer.stdout
        assert consumer.stderr
        try:
            while "/inbox/lease" not in (line := consumer.stderr.readline()):
                assert line
            world.restart(API_KEYS=f"reader:{digest(CONSUMER_KEY)}:consume")
            assert {consumer.stdout.readline().split()[0] for _ in event_ids} == event_ids
            while world.get("/inbox", key=CONSUMER_KEY)["events"]:
                pass  # until the test's time is over
        finally:
            consumer.kill()
