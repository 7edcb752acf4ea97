"""The documents: links resolve, commands exist, settings are complete, and the code of the guides runs."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from chalicelib.retry import outcome_of
from chalicelib.settings import Settings
from tests.support.loopback import serve_app
from tests.support.receiver import Receiver, status
from tests.support.world import CONSUMER_KEY, ROOT, World

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXTS = {document: document.read_text(encoding="utf-8") for document in DOCUMENTS}
RECEIVING = TEXTS[ROOT / "docs" / "receiving.md"]
SNIPPETS = dict(re.findall(r"^```\w+\n((?:#|//) [\w.]+)\n(.*?)^```$", RECEIVING, re.MULTILINE | re.DOTALL))
SECRETS = [f"whsec_{letter * 32}" for letter in "ab"]
NODE = shutil.which("node") or ""
Pushed = tuple[dict[str, str], bytes]  # the headers and the body of a push
needs_node = pytest.mark.skipif(not NODE, reason="Node.js is not installed")


def without_blocks(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)


def code_lines(text: str) -> list[str]:
    """Return the lines of code blocks, and the code spans."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`]+)`", without_blocks(text))


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings, which are unique."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_between_documents_resolve(document: Path) -> None:
    text = re.sub(r"`[^`]+`", "", without_blocks(TEXTS[document]))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        linked = document.parent / path if path else document
        if re.match(r"https?:|mailto:", target):
            continue
        if not linked.exists() or (anchor and anchor not in anchors(linked.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_make_targets_and_modules_exist(document: Path) -> None:
    code = "\n".join(code_lines(TEXTS[document]))
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake(?: [A-Z_]+=\S+)* ([a-z][a-z0-9-]*)", code)) <= targets
    for module in re.findall(r"python3? -m (tools[\w.]*)", code):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or path.is_dir(), module


def test_the_table_of_settings_is_complete() -> None:
    names = {row.metadata["name"] for row in fields(Settings)} | {"SETTINGS_SECRET"}
    tables = [row for text in TEXTS.values() for row in re.findall(r"^\|([^|]+)\|", text, re.MULTILINE)]
    documented = {name for cell in tables for name in re.findall(r"`([A-Z][A-Z_]+)`", cell)}
    assert names <= documented


# The guide for receivers


def verify_in_python(requests: list[Pushed]) -> list[bool]:
    names: dict[str, Any] = {}
    exec(SNIPPETS["# verify.py"], names)
    return [names["is_genuine"](headers, body, SECRETS[0]) for headers, body in requests]


def verify_in_node(requests: list[Pushed]) -> list[bool]:
    given = json.dumps([(headers, body.decode()) for headers, body in requests])
    code = f"""{SNIPPETS["// verify.mjs"]}
    const verify = ([headers, body]) => isGenuine(headers, Buffer.from(body), "{SECRETS[0]}");
    console.log(JSON.stringify({given}.map(verify)));"""
    done = subprocess.run([NODE, "--input-type=module", "-e", code], capture_output=True, text=True, check=True)
    genuine: list[bool] = json.loads(done.stdout)
    return genuine


@pytest.mark.parametrize("verify", [verify_in_python, pytest.param(verify_in_node, marks=needs_node)])
def test_the_verifiers_tell_genuine_pushes_from_forged_ones(
    world: World, receiver: Receiver, verify: Callable[[list[Pushed]], list[bool]]
) -> None:
    def pushed(*secrets: str, seconds_ago: float = 0) -> Pushed:
        world.clock.now = time.time() - seconds_ago
        world.restart(WEBHOOK_SIGNING_SECRETS=" ".join(secrets))
        world.post({"price": "12 €"})
        return dict(receiver.requests[-1].headers), receiver.requests[-1].body

    genuine = [pushed(SECRETS[0]), pushed(*SECRETS), pushed(*reversed(SECRETS)), pushed(SECRETS[0], seconds_ago=240)]
    headers, body = genuine[0]
    forged = [
        (headers, body + b" "),
        *(({**headers, name: "1"}, body) for name in headers if name.startswith("webhook-")),
        *((dict(headers.items() - {(name, headers[name])}), body) for name in headers if name.startswith("webhook-")),
        *(pushed(SECRETS[1]), pushed(), pushed(SECRETS[0], seconds_ago=360), pushed(SECRETS[0], seconds_ago=-360)),
    ]
    assert verify([*genuine, *forged]) == [True] * len(genuine) + [False] * len(forged)


@pytest.mark.parametrize("name", ["# consumer.py", pytest.param("// consumer.mjs", marks=needs_node)])
def test_the_consumers_lease_process_and_acknowledge(world: World, receiver: Receiver, name: str) -> None:
    receiver.default = status(404)
    events = [world.post({"n": number}, event_type=f"t{number}") for number in range(3)]
    code = SNIPPETS[name]
    command = [sys.executable, "-c", code] if name.endswith(".py") else [NODE, "--input-type=module", "-e", code]
    with serve_app() as port:
        environ = {**os.environ, "TRIGGERS_URL": f"http://127.0.0.1:{port}", "TRIGGERS_API_KEY": CONSUMER_KEY}
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as consumer:
            assert consumer.stdout
            processed = [consumer.stdout.readline().split()[0] for _ in events]
            consumer.kill()

    assert sorted(processed) == sorted(event["event_id"] for event in events)
    assert {world.event(event_id)["delivered_via"] for event_id in processed[:2]} == {"pull"}


def test_the_documented_outcome_of_each_status_code_is_the_real_one() -> None:
    table = re.findall(r"^\| ([^|]+) \| (delivered|retry|dead letter)", RECEIVING, re.MULTILINE)
    documented = {code: outcome for cell, outcome in table for code in re.findall(r"\b[2-5](?:\d\d|xx)", cell)}
    assert documented
    for code, outcome in documented.items():
        assert outcome_of(int(code.replace("xx", "00"))) == outcome
    assert outcome_of(301) == outcome_of(404) == "failed"
