"""The documents: links resolve, commands exist, settings are complete, and the code of the guides runs."""

import json
import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest

from chalicelib.retry import outcome_of
from chalicelib.settings import Settings
from tests.support.loopback import serve_app
from tests.support.receiver import Receiver, status
from tests.support.subscribing import post_for
from tests.support.world import CONSUMER_KEY, ROOT, World

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXTS = {document: document.read_text(encoding="utf-8") for document in DOCUMENTS}
RECEIVING = TEXTS[ROOT / "docs" / "receiving.md"]
SNIPPETS = dict(re.findall(r"^```\w+\n(?:#|//) ([\w.]+)\n(.*?)^```$", RECEIVING, re.MULTILINE | re.DOTALL))
SECRETS = [f"whsec_{letter * 32}" for letter in "ab"]
Pushed = tuple[dict[str, str], bytes]  # the headers and the body of a push


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


def test_the_deploy_commands_of_the_readme_run_what_the_deployment_tests_run() -> None:
    deploy = re.findall(r"^```sh\n(.*?)^```$", TEXTS[ROOT / "README.md"], re.MULTILINE | re.DOTALL)[-1]
    dry_run = f'make() {{ command make --dry-run -o .venv/.set-up "$@"; }}\n{deploy}'
    environ = {**os.environ, "MAKEFLAGS": ""}  # make deploy refuses variables of make test
    command = ["bash", "-ec", dry_run]
    printed = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True).stdout

    steps = re.findall(r"tools\.\w+|chalice deploy --stage", printed)
    assert steps == ["tools.api_key", "tools.resources", "chalice deploy --stage", "tools.gateway"]


def test_the_table_of_settings_is_complete() -> None:
    names = {row.metadata["name"] for row in fields(Settings)} | {"SETTINGS_SECRET"}
    tables = [row for text in TEXTS.values() for row in re.findall(r"^\|([^|]+)\|", text, re.MULTILINE)]
    documented = {name for cell in tables for name in re.findall(r"`([A-Z][A-Z_]+)`", cell)}
    assert names <= documented


# The guide for receivers


@pytest.fixture
def snippets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write the guide's code blocks into a folder of Python's path, and forget what they import from each other."""
    for name, code in SNIPPETS.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("client", None)


@contextmanager
def api() -> Iterator[dict[str, str]]:
    """Serve the API; yield the variables of its users."""
    with serve_app() as port:
        yield {"TRIGGERS_URL": f"http://127.0.0.1:{port}", "TRIGGERS_API_KEY": CONSUMER_KEY}


def test_the_verifier_tells_genuine_pushes_from_forged_ones(world: World, receiver: Receiver, snippets: Path) -> None:
    is_genuine = runpy.run_path(str(snippets / "verify.py"))["is_genuine"]

    def pushed(*secrets: str, seconds_ago: float = 0) -> Pushed:
        world.clock.now = time.time() - seconds_ago
        world.restart(WEBHOOK_SIGNING_SECRETS=" ".join(secrets))
        post_for(world, "customer-42")
        return dict(receiver.requests[-1].headers), receiver.requests[-1].body

    genuine = [pushed(SECRETS[0]), pushed(*SECRETS), pushed(*reversed(SECRETS)), pushed(SECRETS[0], seconds_ago=240)]
    headers, body = genuine[0]
    forged = [
        (headers, body + b" "),
        *(({**headers, name: "1"}, body) for name in headers if name.startswith("webhook-")),
        *((dict(headers.items() - {(name, headers[name])}), body) for name in headers if name.startswith("webhook-")),
        *(pushed(SECRETS[1]), pushed(), pushed(SECRETS[0], seconds_ago=360), pushed(SECRETS[0], seconds_ago=-360)),
    ]
    assert [is_genuine(*push, SECRETS[0]) for push in genuine] == [True] * len(genuine)
    assert [is_genuine(*push, SECRETS[0]) for push in forged] == [False] * len(forged)


def test_a_product_gives_a_customer_a_webhook_with_a_secret_of_its_own_and_takes_it_away(
    world: World, receiver: Receiver, snippets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.clock.now = time.time()
    world.restart(ZAPIER_WEBHOOK_URL="none", WEBHOOK_SIGNING_SECRETS=SECRETS[0])
    with api() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        product = runpy.run_path(str(snippets / "customers.py"))
        webhook = product["add_webhook"]("customer-42", receiver.url, ["order.*"])
        since = webhook["created_at"]
        mine, others = post_for(world, "customer-42"), post_for(world, "customer-43")
        deliveries = product["list_deliveries"]("customer-42", webhook["subscription_id"], since)
        not_mine = product["list_deliveries"]("customer-43", webhook["subscription_id"], since)
        product["remove_customer"]("customer-42")
        after = post_for(world, "customer-42")

    assert (others["copies"], after["copies"], not_mine["events"]) == ([], [], [])
    assert [(copy["event_id"], copy["status"]) for copy in deliveries["events"]] == [(mine["copies"][0], "delivered")]
    [push] = receiver.requests
    content = json.loads(push.body)
    assert (content["tenant"], content["source_event_id"]) == ("customer-42", mine["event_id"])
    is_genuine = runpy.run_path(str(snippets / "verify.py"))["is_genuine"]
    headers = dict(push.headers)
    assert is_genuine(headers, push.body, webhook["secret"])
    assert not is_genuine(headers, push.body, SECRETS[0])
    [shown] = re.findall(r"^```http\n(.*?)^```$", RECEIVING, re.MULTILINE | re.DOTALL)
    head, _, body = shown.partition("\n\n")
    assert list(json.loads(body)) == list(content)
    assert {line.split(":")[0].lower() for line in head.splitlines()[1:]} <= headers.keys()


def test_the_consumer_leases_processes_and_acknowledges(world: World, receiver: Receiver, snippets: Path) -> None:
    receiver.default = status(404)
    events = [world.post({"n": number}, event_type=f"t{number}") for number in range(3)]
    command = [sys.executable, "consumer.py"]
    with (
        api() as variables,
        subprocess.Popen(
            command, cwd=snippets, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True
        ) as consumer,
    ):
        assert consumer.stdout
        try:
            processed = [consumer.stdout.readline().split()[0] for _ in events]
            deadline = time.monotonic() + 10
            while {world.event(event_id)["delivered_via"] for event_id in processed} != {"pull"}:
                assert time.monotonic() < deadline
        finally:
            consumer.kill()

    assert sorted(processed) == sorted(event["event_id"] for event in events)


def test_the_documented_outcome_of_each_status_code_is_the_real_one() -> None:
    table = re.findall(r"^\| ([^|]+) \| (delivered|retry|dead letter)", RECEIVING, re.MULTILINE)
    documented = {code: outcome for cell, outcome in table for code in re.findall(r"\b[2-5](?:\d\d|xx)", cell)}
    assert documented
    for code, outcome in documented.items():
        assert outcome_of(int(code.replace("xx", "00"))) == outcome
    assert outcome_of(301) == outcome_of(404) == "failed"
