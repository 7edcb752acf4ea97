"""The documents: links resolve, commands exist, and the table of settings is complete."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from chalicelib.settings import Settings
from tests.support.world import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXTS = {document: document.read_text(encoding="utf-8") for document in DOCUMENTS}


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
