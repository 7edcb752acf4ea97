"""What an OpenAPI document promises to callers: places in it, compared between versions."""

from collections.abc import Iterator
from typing import Any

from tests.support.world import Json

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
        """Return what a later document does not keep."""
        gone = [place for place in self.places - later.places if not limited(place)]
        added = [place for place in later.places - self.places if limited(place) in self.places]
        return sorted(gone + added)

    def walk(self, node: Json, path: Place, within: frozenset[str]) -> Iterator[Place]:
        """Yield the places from one on; a filter in a filter is left out."""
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
        """Return the place of an element of a list, or of a member: parameters have names."""
        parameter = self.resolve(element) if path[-1] == "parameters" else {}
        return (*path, parameter["in"], parameter["name"]) if parameter else path

    def resolve(self, node: Json) -> Json:
        """Return an object with the members of what it refers to."""
        while "$ref" in node:
            found = self.document
            for name in node["$ref"].removeprefix("#/").split("/"):
                found = found[name.replace("~1", "/")]
            node = found | {name: value for name, value in node.items() if name != "$ref"}
        return node


def elements(value: Any, *, are_named: bool) -> list[Any]:
    if isinstance(value, dict) and are_named:
        return [*value.values()]
    return (value or ["any"]) if isinstance(value, list) else [value]


def limited(place: Place) -> Place:
    """Return what a place limits, or nothing if it is no limit."""
    is_asked = place[1] == "paths" and "responses" not in place
    if is_asked and place[-2:] == ("required", "True"):
        return place[:4]  # the operation
    is_limit = place[-2:-1] == (("required",) if is_asked else ("type",))
    return place[:-2] if is_limit else ()
