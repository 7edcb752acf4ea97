"""The documents: links resolve, commands exist, settings are complete, and the code of the guides
runs.
"""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import WebhookVerificationError

from chalicelib.settings import BY_VARIABLE
from tests.support.loopback import serve_app
from tests.support.receiver import Receiver
from tests.support.subscribing import post_for
from tests.support.world import CONSUMER_KEY, ROOT, SIGNING_SECRETS, World, digest

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXTS = {document: document.read_text(encoding="utf-8") for document in DOCUMENTS}
RECEIVING = TEXTS[ROOT / "docs" / "receiving.md"]
SNIPPETS = dict(
    re.findall(r"^```\w+\n(?:#|//) ([\w.]+)\n(.*?)^```$", RECEIVING, re.MULTILINE | re.DOTALL)
)
Pushed = tuple[dict[str, str], bytes]  # the headers and the body of a push


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
    assert names <= {name for cell in tables for name in re.findall(r"`([A-Z][A-Z_]+)`", cell)}


# The guide for receivers


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


def pushed(world: World, receiver: Receiver, *secrets: str, seconds_ago: float = 0) -> Pushed:
    world.clock.now = time.time() - seconds_ago
    world.restart(WEBHOOK_SIGNING_SECRETS=" ".join(secrets))
    post_for(world, "customer-42")
    return dict(receiver.requests[-1].headers), receiver.requests[-1].body


def check_in_python(push: Pushed, secret: str) -> Any:
    """Return the event that the guide's lines of Python find in a push, or None if they raise."""
    headers, body = push
    given = {"secret": secret, "body": body, "headers": headers}
    try:
        return runpy.run_path("check.py", given)["event"]
    except WebhookVerificationError:
        return None


def check_in_node(push: Pushed, secret: str) -> Any:
    headers, body = push
    values = json.dumps({"secret": secret, "body": body.decode(), "headers": headers})
    script = (
        f"const {{ secret, body, headers }} = "
        f"{values};{SNIPPETS['check.js']}console.log(JSON.stringify(event));"
    )
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=False)
    assert not done.returncode or "WebhookVerificationError" in done.stderr, done.stderr
    return json.loads(done.stdout or "null")


@pytest.mark.parametrize(
    "check",
    [
        check_in_python,
        pytest.param(
            check_in_node,
            marks=pytest.mark.skipif(not shutil.which("npm"), reason="needs Node.js and npm"),
        ),
    ],
)
@pytest.mark.usefixtures("snippets")
def test_the_lines_for_customers_tell_genuine_pushes_from_forged_ones(
    check: Callable[[Pushed, str], Any], world: World, receiver: Receiver
) -> None:
    if check is check_in_node:
        install = "npm install --no-audit --no-fund --silent standardwebhooks@1.1.1"
        subprocess.run(install.split(), check=True)
    headers, body = push = pushed(world, receiver, SIGNING_SECRETS[0])
    genuine = [
        push,
        pushed(world, receiver, *SIGNING_SECRETS),
        pushed(world, receiver, SIGNING_SECRETS[0], seconds_ago=240),
    ]
    forged = [
        (headers, body + b" "),
        pushed(world, receiver),
        pushed(world, receiver, SIGNING_SECRETS[0], seconds_ago=360),
    ]

    events = [json.loads(body) for _, body in genuine]
    assert [check(push, SIGNING_SECRETS[0]) for push in genuine] == events
    assert [check(push, SIGNING_SECRETS[0]) for push in forged] == [None] * len(forged)
    assert check(push, SIGNING_SECRETS[1]) is None


@pytest.mark.usefixtures("snippets")
def test_a_product_gives_a_customer_the_page_of_its_webhooks(world: World) -> None:
    world.clock.now = time.time()

    product = runpy.run_path("customers.py")

    page, _, token = product["webhooks_page"]("customer-42").partition("#key=")
    assert page == f"{os.environ['TRIGGERS_URL']}/"
    assert world.get("/me", key=token)["tenant"] == "customer-42"


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
