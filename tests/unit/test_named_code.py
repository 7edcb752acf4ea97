"""Names of code that documents and the configuration of tools quote exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCES = [
    path
    for folder in ("chalicelib", "tools", "tests", "measure")
    for path in (ROOT / folder).rglob("*.py")
]
NAMES = {
    name
    for path in SOURCES
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    for name in (
        getattr(node, "name", None),
        getattr(node, "id", None),
        getattr(node, "attr", None),
    )
}


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/reliability.md", "docs/scaling.md"])
def test_private_names_in_documents_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")

    assert set(re.findall(r"(?<![\w/.-])_[a-z]\w+(?=\(|`)", text)) - NAMES == set()


def test_functions_that_pyproject_names_exist() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    named = re.findall(r'"((?:chalicelib|tools|tests)\.[\w.]+)\.(\w+)"', text)
    missing = [name for _, name in named if name not in NAMES]
    assert (bool(named), missing) == (True, [])
