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

# The names of the members that lead from the root of the document of the API to one of its parts,
# after an empty text. The place of a value that is not an object ends with the value as text:
# ("", "paths", "/events", "post", "parameters", "query", "limit", "schema", "type", "integer").
Place = tuple[str, ...]
# Members that are maps: OpenAPI does not define the names in them, but callers rely on all of them.
MAPS = {"paths", "webhooks", "security", "responses", "headers", "content", "properties"}
# The members of all other objects on which callers rely.
PROMISED = {"parameters", "requestBody", "schema", "items", "additionalProperties", "operationId"}
PROMISED |= {"get", "post", "patch", "delete", "type", "enum", "required", "code", *MAPS}
# Members that have no place of their own: the objects in them count as parts of the object that has
# the member.
INLINED = {"allOf", "anyOf", "oneOf", "example", "examples", "value"}


class Promises:
    """The places of a document of the API. Callers rely on each place, except for limits: a limit
    is a member that a request must have, or a type that a value of a response can have. A later
    version may drop a limit, but may not add one.
    """

    def __init__(self, document: Json) -> None:
        """Find the places of all paths and webhooks.

        :param document: The OpenAPI document.
        """
        self.document = document
        self.places: set[Place] = set()
        for root in ("paths", "webhooks"):
            # `find_places` needs two names, so that an empty one comes before the first.
            place = ("", root)
            self.places.update(self.find_places(document[root], place, followed=frozenset()))

    def find_lost_places(self, later: "Promises") -> list[Place]:
        """Return the places that a later document lacks, and the limits that it adds to a place of
        this document, sorted. A limit that the later document drops is not lost.
        """
        # `find_limited` returns the place that a limit restricts; it is empty for other places.
        lacking = [place for place in self.places - later.places if not find_limited(place)]
        added = later.places - self.places
        added_limits = [place for place in added if find_limited(place) in self.places]
        return sorted(lacking + added_limits)

    def find_places(self, part: Json, place: Place, followed: frozenset[str]) -> Iterator[Place]:
        """Yield the place of an object of the document, and all places within the object: those of
        the members on which callers rely.

        Callers rely on the members whose names are in PROMISED and, in a map such as `headers`
        (MAPS), on all members. A member such as `allOf` (INLINED) has no place of its own: its
        objects count as parts of the object that has the member. Other members are left out.

        :param part: The object, which may have a `$ref`.
        :param place: The place of the object; it has at least two names.
        :param followed: Each `$ref` on the way to the object. At an object with one of them, the
            search ends, since a schema can refer to itself (a filter within a filter).
        """
        yield place
        reference = part.get("$ref")
        if reference in followed:
            return
        if reference:
            followed |= {reference}
        # A property that is called like a map, such as `headers`, is none.
        is_map = place[-1] in MAPS and place[-2] not in MAPS
        for name, value in self.resolve(part).items():
            is_promised = is_map or name in PROMISED
            if not is_promised and name not in INLINED:
                continue
            place_of_member = (*place, name) if is_promised else place
            for element in list_elements(value, is_list=name == "examples"):
                if isinstance(element, dict):
                    place_of_element = self.add_parameter(place_of_member, element)
                    yield from self.find_places(element, place_of_element, followed)
                elif is_promised:
                    yield (*place_of_member, str(element))

    def add_parameter(self, place: Place, element: Json) -> Place:
        """Return the place of an object in a member of the document. For a parameter of a request,
        append its kind (`query`, `path` or `header`) and its name to the place of the member; for
        any other object, return the place of the member unchanged.

        :param place: The place of the member: `parameters` if the object is a parameter.
        """
        if place[-1] != "parameters":
            return place
        parameter = self.resolve(element)
        return (*place, parameter["in"], parameter["name"])

    def resolve(self, part: Json) -> Json:
        """Return an object of the document without `$ref`: with its own members and those of the
        object to which its `$ref` refers, if it has one. Its own members take precedence.
        """
        while "$ref" in part:
            target = self.document
            for name in part["$ref"].removeprefix("#/").split("/"):
                target = target[name.replace("~1", "/")]  # in a JSON pointer, `~1` stands for `/`
            own = {name: value for name, value in part.items() if name != "$ref"}
            part = target | own
        return part


def list_elements(value: Any, *, is_list: bool) -> list[Any]:
    """Return the elements of a list; `["any"]` for an empty list, so that it is compared with that
    of another document, too; and for a value that is not a list, a list of the value alone.

    :param is_list: Whether an object counts as a list of the values of its members.
    """
    if isinstance(value, dict) and is_list:
        return [*value.values()]
    if not isinstance(value, list):
        return [value]
    return value or ["any"]


def find_limited(place: Place) -> Place:
    """Return the place that a limit restricts, or an empty place if `place` is no limit.

    - A required parameter of a request restricts the operation.
    - The name of a required member of a request body restricts the object with the member.
    - A type of a value in a response, or in the body that a webhook receives, restricts the value.
    """
    is_of_request = place[1] == "paths" and "responses" not in place
    if is_of_request and place[-2:] == ("required", "True"):
        return place[:4]  # ("", "paths", path, method)
    if is_of_request and place[-2:] == ("required", "False"):
        return ()  # not a limit but a promise: callers may leave the parameter out
    limiting = "required" if is_of_request else "type"
    return place[:-2] if place[-2] == limiting else ()


# The members that `Promises.resolve` and `Promises.add_parameter` read.
FOLLOWED = {"$ref", "in", "name"}
LINE_LENGTH = 200
# A variable of the Makefile: TAKES_<command> has the names of the variables that a command reads.
COMMAND = re.compile("^TAKES_(.+) :=(.*)$", re.MULTILINE)
# The first cell of a row in the table of settings.
SETTING = re.compile("^\\| (`[^|]*`) \\|", re.MULTILINE)
METRIC = re.compile("(?!CloudWatch)(DLQ|[A-Z][a-z]+)[A-Z][A-Za-z]+|Subscriptions")


def read_promises(commit: str = "") -> Json:
    """Return the promises of a version, by their kind:

    - `api`: the OpenAPI document, with only the members that `Promises` reads
    - `commands`: the names of the variables of each make command, by the name of the command
    - `settings`, `metrics`: their names

    :param commit: A commit of this repository; "" is the present code.
    """
    document = json.loads(_read("chalicelib/openapi.json", commit))
    commands = COMMAND.findall(_read("Makefile", commit))
    settings: set[str] = set()
    for cell in SETTING.findall(_read("docs/settings.md", commit)):
        settings.update(re.findall("`(.+?)`", cell))  # a row can describe several settings
    return {
        "api": _strip_document(document),
        "commands": {name: sorted(variables.split()) for name, variables in commands},
        "settings": sorted(settings),
        "metrics": sorted(_find_metrics(commit)),
    }


def find_lost(before: Json, after: Json) -> list[str]:
    """Return a line for each promise of a version that a later version does not keep: a place of
    the API, `make` and a command, `make` with a command and its variable, or the name of a setting
    or a metric.

    :param before: The promises of the version, as `read_promises` returns them.
    :param after: The promises of the later version.
    """
    places = Promises(before["api"]).find_lost_places(Promises(after["api"]))
    lost = [" ".join(place) for place in places]
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
    """Yield the names of the metrics in chalicelib, a name possibly more than once. A function that
    records metrics has the string "metrics", and the strings in it that match METRIC (words in
    CamelCase) are the names.

    :param commit: A commit of this repository; "" is the present code.
    """
    if commit:
        paths = _git("ls-tree", "-r", "--name-only", commit, "chalicelib").split()
    else:
        paths = [str(path.relative_to(ROOT)) for path in Path(ROOT, "chalicelib").rglob("*.py")]
    for path in paths:
        if not path.endswith(".py"):
            continue
        for function in ast.walk(ast.parse(_read(path, commit))):
            if not isinstance(function, ast.FunctionDef):
                continue
            constants = [
                node.value for node in ast.walk(function) if isinstance(node, ast.Constant)
            ]
            strings = [constant for constant in constants if isinstance(constant, str)]
            if "metrics" in strings:
                yield from filter(METRIC.fullmatch, strings)


def _strip_document(document: Json) -> Json:
    """Return a document of the API with only the members that `Promises` reads."""
    components = {}
    for kind, components_of_kind in document["components"].items():
        if kind != "securitySchemes":
            components[kind] = {
                name: _strip(component, ("", ""))  # as if it had no names before it
                for name, component in components_of_kind.items()
            }
    roots = {root: _strip(document[root], ("", root)) for root in ("paths", "webhooks")}
    return {**roots, "components": components}


def _strip(value: Any, place: tuple[str, str]) -> Any:
    """Return a part of the document of the API without the members that `Promises` does not read.

    It reads all members of a map such as `headers` (MAPS), members on which callers rely
    (PROMISED), references to other objects and the names of parameters (FOLLOWED), and the objects
    in members such as `allOf` (INLINED).

    :param value: The part: an object; a list, which is returned with each element stripped; or a
        text, a number, a boolean or None, which is returned unchanged.
    :param place: The last two names on the way from the root of the document to the part.
    """
    if isinstance(value, list):
        return [_strip(element, place) for element in value]
    if not isinstance(value, dict):
        return value
    parent_name, own_name = place
    # `examples` is a map of examples by name. A property that is called like a map is none.
    is_map = own_name in {*MAPS, "examples"} and parent_name not in MAPS
    stripped = {}
    for name, member in value.items():
        stripped_member = _strip(member, (own_name, name))
        if is_map or name in PROMISED or name in FOLLOWED:
            stripped[name] = stripped_member
        elif name in INLINED:
            # `Promises` reads such a member only for the objects in it.
            elements = list_elements(stripped_member, is_list=name == "examples")
            if any(isinstance(element, dict) and element for element in elements):
                stripped[name] = stripped_member
    return stripped


def _to_lines(value: Any, indent: str = "", before: str = "", after: str = "") -> Iterator[str]:
    """Yield a value as lines of JSON, each with as many members as fit into LINE_LENGTH. A member
    that does not fit into one line gets lines of its own, with one more space before them.

    :param indent: The spaces before the value.
    :param before: The text before the value in its first line.
    :param after: The text after the value in its last line.
    """
    one_line = f"{indent}{before}{json.dumps(value)}{after}"
    if len(one_line) <= LINE_LENGTH or not isinstance(value, dict):
        yield one_line
        return
    yield f"{indent}{before}{{"
    inner_indent = f"{indent} "
    line = ""  # the members that the next line has so far
    for number, (name, member) in enumerate(value.items(), 1):
        key = f"{json.dumps(name)}: "
        is_last = number == len(value)
        after_member = f"}}{after}" if is_last else ","
        text = f"{key}{json.dumps(member)}{after_member}"
        if line and len(f"{inner_indent}{line} {text}") > LINE_LENGTH:
            yield inner_indent + line
            line = ""
        if len(inner_indent + text) > LINE_LENGTH:
            yield from _to_lines(member, indent=inner_indent, before=key, after=after_member)
        else:
            line = f"{line} {text}".strip()
    if line:
        yield inner_indent + line


if __name__ == "__main__":
    lines = _to_lines(read_promises(sys.argv[1]))
    sys.stdout.writelines(f"{line}\n" for line in lines)
