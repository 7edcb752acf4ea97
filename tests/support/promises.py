"""What an OpenAPI document promises to callers, as places in it that are compared between versions."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tests.support.world import Json

Place = tuple[str, ...]  # names and words of the document, from its root on, and a value
NAMING = {"paths", "webhooks", "security", "responses", "headers", "content", "properties"}
METHODS = {"get", "post", "patch", "delete"}
TOLD = {"operationId", "parameters", "requestBody", "schema", "items", "additionalProperties"}
TOLD |= {"type", "enum", "required", "code", *NAMING, *METHODS}
IN_PLACE = {"allOf", "anyOf", "oneOf", "example", "value"}


@dataclass(frozen=True)
class Promises:
    """The promises of a document. Whoever calls may rely on its places, but for limits: what a
    request requires, and which types a response may have. No further ones may be there later.
    """

    document: Json

    @cached_property
    def places(self) -> set[Place]:
        return set(self.walk(self.document, (), frozenset()))

    def lost(self, later: "Promises") -> list[Place]:
        """Return what a later document does not keep."""
        gone = [place for place in self.places - later.places if not is_limit(place)]
        added = [
            place
            for place in later.places - self.places
            if is_limit(place) and limited(place) in self.places
        ]
        return sorted(gone + added)

    def walk(self, node: object, path: Place, within: frozenset[str]) -> Iterator[Place]:
        if isinstance(node, list):
            for element in node:
                named = isinstance(element, dict) and "name" in self.resolve(element)
                yield from self.walk(element, path, within)
        elif isinstance(node, dict):
            yield path
            yield from self.walk_members(node, path, within)
        else:
            yield (*path, str(node))
