"""Read the promises that a version keeps until 2.0: its API, commands, settings and metrics.

`tests/support/promises-1.0.json` has what 1.0.0 promised. It was made by

    .venv/bin/python -m tests.support.promises 1e0755a5 > tests/support/promises-1.0.json
"""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.world import ROOT, Json

Place = tuple[str, ...]  # names and words of the document, from its root on, and a value
# Whatever is named in these counts; in others, what is in TOLD.
NAMING = {"paths", "webhooks", "security", "responses", "headers", "content", "properties"}
TOLD = {"parameters", "requestBody", "schema", "items", "additionalProperties", "operationId"}
TOLD |= {"get", "post", "patch", "delete", "type", "enum", "required", "code", *NAMING}
IN_PLACE = {"allOf", "anyOf", "oneOf", "example", "examples", "value"}


class Promises:
    """The places of a document, which callers may rely on, but for limits: what a request
    requires, and of which types a response may be. Of those, no further ones may come.
    """

    def __init__(self, document: Json) -> None:
        self.document = document
        self.places = {
            place
            for root in ("paths", "webhooks")
            for place in self.walk(document[root], ("", root), frozenset())
        }

    def lost(self, later: "Promises") -> list[Place]:
        """Return the places that a later document lacks, and the limits that it adds."""
        gone = [place for place in self.places - later.places if not limited(place)]
        added = [place for place in later.places - self.places if limited(place) in self.places]
        return sorted(gone + added)

    def walk(self, node: Json, path: Place, within: frozenset[str]) -> Iterator[Place]:
        """Yield the place of a part of the document and all places within it.

        :param node: The part.
        :param path: The place of the part.
        :param within: The references that lead to the part. None of them is followed again, so a
            filter within a filter is left out.
        """
        yield path
        reference = node.get("$ref", "")
        if reference in within:
            return
        within |= {reference} - {""}
        has_names = path[-1] in NAMING and path[-2] not in NAMING
        for name, value in self.resolve(node).items():
            is_told = has_names or name in TOLD
            if not is_told and name not in IN_PLACE:
                continue
            place = (*path, name) if is_told else path
            for element in elements(value, are_named=name == "examples"):
                if isinstance(element, dict):
                    yield from self.walk(element, self.place_of(element, place), within)
                elif is_told:
                    yield (*place, str(element))

    def place_of(self, element: Json, path: Place) -> Place:
        """Return the place of an element of a list or of a member: for a parameter, with where the
        parameter is and its name; else the place of the list or the member itself.
        """
        parameter = self.resolve(element) if path[-1] == "parameters" else {}
        return (*path, parameter["in"], parameter["name"]) if parameter else path

    def resolve(self, node: Json) -> Json:
        """Return an object, with the members of the object to which its `$ref` refers."""
        while "$ref" in node:
            found = self.document
            for name in node["$ref"].removeprefix("#/").split("/"):
                found = found[name.replace("~1", "/")]
            node = found | {name: value for name, value in node.items() if name != "$ref"}
        return node


def elements(value: Any, *, are_named: bool) -> list[Any]:
    """Return the elements of a list, which are "any" if it is empty, or any other value alone.

    :param are_named: Whether the elements of the list are the members of an object instead.
    """
    if isinstance(value, dict) and are_named:
        return [*value.values()]
    return (value or ["any"]) if isinstance(value, list) else [value]


def limited(place: Place) -> Place:
    """Return the place that a place limits, such as the operation for a required parameter; return
    an empty place if it limits none.
    """
    is_asked = place[1] == "paths" and "responses" not in place
    if is_asked and place[-2:] == ("required", "True"):
        return place[:4]  # the operation
    if is_asked and place[-2:] == ("required", "False"):
        return ()  # it may be left out by now
    is_limit = place[-2:-1] == (("required",) if is_asked else ("type",))
    return place[:-2] if is_limit else ()


FOLLOWED = {"$ref", "in", "name"}
LINE_LENGTH = 200
COMMAND = re.compile("^TAKES_(.+) :=(.*)$", re.MULTILINE)
SETTING = re.compile("^\\| (`[^|]*`) \\|", re.MULTILINE)
METRIC = re.compile("(?!CloudWatch)(DLQ|[A-Z][a-z]+)[A-Z][A-Za-z]+|Subscriptions")


def read_promises(commit: str = "") -> Json:
    """Return the promises of a version by their kind: the document of the API, the variables of
    each command, and the names of settings and metrics.


    :param commit: A commit of this repository; "" is the present code.
    """
    document = json.loads(_read("chalicelib/openapi.json", commit))
    commands = COMMAND.findall(_read("Makefile", commit))
    settings = SETTING.findall(_read("docs/settings.md", commit))
    return {
        "api": _told_of(document),
        "commands": {name: sorted(variables.split()) for name, variables in commands},
        "settings": sorted({name for names in settings for name in re.findall("`(.+?)`", names)}),
        "metrics": sorted(_find_metrics(commit)),
    }


def find_lost(before: Json, after: Json) -> list[str]:
    """Return a line for each promise of a version that a later version does not keep.

    :param before: The promises of the version, as `read_promises` returns them.
    :param after: The promises of the later version.
    """
    lost = [" ".join(place) for place in Promises(before["api"]).lost(Promises(after["api"]))]
    for command, variables in before["commands"].items():
        if command not in after["commands"]:
            lost.append(f"make {command}")
        else:
            kept = after["commands"][command]
            lost += [f"make {command} {name}=" for name in variables if name not in kept]
    for kind in ("settings", "metrics"):
        lost += [f"{kind}: {name}" for name in before[kind] if name not in after[kind]]
    return lost


def _read(path: str, commit: str) -> str:
    """Return the text of a file of the repository at a commit; "" is the present file."""
    return _git("show", f"{commit}:{path}") if commit else Path(ROOT, path).read_text("utf-8")


def _git(*arguments: str) -> str:
    """Run git; return its output. Raise CalledProcessError if it fails."""
    return subprocess.run(
        ("git", *arguments), cwd=ROOT, check=True, capture_output=True, encoding="utf-8"
    ).stdout


def _find_metrics(commit: str) -> Iterator[str]:
    """Yield the names of metrics: words with two capitals, in functions that log metrics."""
    if commit:
        paths = _git("ls-tree", "-r", "--name-only", commit, "chalicelib").split()
    else:
        paths = [str(path.relative_to(ROOT)) for path in Path(ROOT, "chalicelib").rglob("*.py")]
    for path in paths:
        text = _read(path, commit) if path.endswith(".py") else ""
        functions = (
            node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)
        )
        for function in functions:
            constants = [
                node.value for node in ast.walk(function) if isinstance(node, ast.Constant)
            ]
            names = [value for value in constants if isinstance(value, str)]
            if "metrics" in names:
                yield from filter(METRIC.fullmatch, names)


def _told_of(document: Json) -> Json:
    """Return a document of the API with only the members that `Promises` reads."""
    components = {
        kind: {name: _strip(component, ("", "")) for name, component in named.items()}
        for kind, named in document["components"].items()
        if kind != "securitySchemes"
    }
    told = {root: _strip(document[root], ("", root)) for root in ("paths", "webhooks")}
    return {**told, "components": components}


def _strip(value: Any, path: Place) -> Any:
    """Return a part of a document without the members that `Promises.walk` leaves out.

    :param path: The last two names on the way from the root of the document to the part.
    """
    if isinstance(value, list):
        return [_strip(element, path) for element in value]
    if not isinstance(value, dict):
        return value
    has_names = path[-1] in {*NAMING, "examples"} and path[-2] not in NAMING
    told = {
        name: _strip(member, (path[-1], name))
        for name, member in value.items()
        if has_names or name in {*TOLD, *IN_PLACE, *FOLLOWED}
    }
    examples = IN_PLACE if not has_names else set()
    return {
        name: member
        for name, member in told.items()
        if name not in examples
        or any(
            isinstance(part, dict) and part
            for part in elements(member, are_named=name == "examples")
        )
    }


def _to_lines(value: Any, indent: str = "", before: str = "", after: str = "") -> Iterator[str]:
    """Yield a value as lines of JSON, each with as many members as fit into LINE_LENGTH.

    :param indent: The spaces before the value.
    :param before: The text before the value in its first line.
    :param after: The text after the value in its last line.
    """
    text = f"{before}{json.dumps(value)}{after}"
    if len(indent + text) <= LINE_LENGTH or not isinstance(value, dict):
        yield indent + text
        return
    yield f"{indent}{before}{{"
    inner = f"{indent} "
    line = ""
    for number, (name, member) in enumerate(value.items(), 1):
        key = f"{json.dumps(name)}: "
        end = "," if number < len(value) else f"}}{after}"
        text = f"{key}{json.dumps(member)}{end}"
        if line and len(f"{inner}{line} {text}") > LINE_LENGTH:
            yield inner + line
            line = ""
        if len(inner + text) > LINE_LENGTH:
            yield from _to_lines(member, inner, key, end)
        else:
            line = f"{line} {text}".strip()
    if line:
        yield inner + line


if __name__ == "__main__":
    lines = _to_lines(read_promises(sys.argv[1]))
    sys.stdout.writelines(f"{line}\n" for line in lines)
