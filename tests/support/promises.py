"""What an OpenAPI document promises to callers, as sentences that are compared between versions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.world import Json

IN_PLACE = ("allOf", "anyOf", "oneOf")


@dataclass
class Promises:
    """The promises of a document.

    `kept` may grow, but lose nothing. `limits` name what callers must do or be ready for, by the
    sentence of `kept` that they limit: that may be given no further ones.
    """

    document: Json
    kept: set[str] = field(default_factory=set)
    limits: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path, item in self.document["paths"].items():
            for method, operation in self.operations(item):
                self.read_operation(f"{method.upper()} {path}", operation)
        for name, item in self.document["webhooks"].items():
            for _, operation in self.operations(item):
                self.read_parameters(f"push {name}", operation)
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                self.read_schema(f"push {name}: body", schema, is_request=False)

    def lost(self, later: "Promises") -> set[str]:
        """Return the promises that a later document does not keep."""
        added = {
            f"{promise} {limit}"
            for promise in self.kept
            for limit in later.limits.get(promise, set()) - self.limits.get(promise, set())
        }
        return added | {f"gone: {promise}" for promise in self.kept - later.kept}

    def resolve(self, value: Json) -> Json:
        while "$ref" in value:
            found: Any = self.document
            for name in value["$ref"].removeprefix("#/").split("/"):
                found = found[name.replace("~1", "/")]
            value = {**found, **{name: value[name] for name in value if name != "$ref"}}
        return value

    def operations(self, item: Json) -> Iterator[tuple[str, Json]]:
        shared = item.get("parameters", [])
        for method, operation in item.items():
            if method != "parameters":
                parameters = [*shared, *operation.get("parameters", [])]
                yield method, {**operation, "parameters": parameters}

    def read_operation(self, name: str, operation: Json) -> None:
        self.kept.add(name)
        self.kept.add(f"{name} is called {operation['operationId']}")
        for requirement in operation["security"]:
            for scheme, scopes in requirement.items():
                self.kept |= {f"{name} takes {scheme} with {scope}" for scope in scopes or ("any",)}
        self.read_parameters(name, operation)
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            body = f"{name}: body of {media_type}"
            self.kept.add(body)
            if operation["requestBody"].get("required"):
                self.limit(name, "requires a body")
            self.read_schema(body, content["schema"], is_request=True)
        for status, response in operation["responses"].items():
            self.read_response(f"{name}: {status}", self.resolve(response))

    def read_parameters(self, name: str, operation: Json) -> None:
        for parameter in map(self.resolve, operation["parameters"]):
            taken = f"{name}: {parameter['in']} {parameter['name']}"
            self.kept.add(taken)
            if parameter.get("required"):
                self.limit(name, f"requires {parameter['name']}")
            self.read_schema(taken, parameter["schema"], is_request=True)

    def read_response(self, name: str, response: Json) -> None:
        self.kept.add(name)
        self.kept |= {f"{name} has the header {header}" for header in response.get("headers", {})}
        for media_type, content in response.get("content", {}).items():
            self.kept.add(f"{name} of {media_type}")
            self.read_schema(name, content.get("schema", {}), is_request=False)
            examples = [*content.get("examples", {}).values(), {"value": content.get("example")}]
            for value in (self.resolve(example)["value"] for example in examples):
                if isinstance(value, Mapping) and "code" in value:
                    self.kept.add(f"{name} with the code {value['code']}")

    def read_schema(
        self, name: str, schema: Json, *, is_request: bool, within: tuple[str, ...] = ()
    ) -> None:
        reference = schema.get("$ref", "")
        if reference in within:
            return  # a filter is in a filter
        within = (*within, reference) if reference else within
        schema = self.resolve(schema)
        self.kept.add(name)
        types = schema.get("type", [])
        values = schema.get("enum", [])
        for text in [types] if isinstance(types, str) else types:
            if is_request:
                self.kept.add(f"{name} may be {text}")
            else:
                self.limit(name, f"may be {text}")
        if is_request:
            self.kept |= {f"{name} may be {value!r}" for value in values}
        elif values:
            self.kept |= {f"{name} tells {value!r}" for value in values}
        for required in schema.get("required", ()):
            if is_request:
                self.limit(name, f"requires {required}")
            else:
                self.kept.add(f"{name} always has {required}")
        parts = [(name, part) for word in IN_PLACE for part in schema.get(word, ())]
        parts += [
            (f"{name}.{member}", part) for member, part in schema.get("properties", {}).items()
        ]
        for word, mark in (("items", "[]"), ("additionalProperties", ".*")):
            if isinstance(schema.get(word), dict):
                parts.append((f"{name}{mark}", schema[word]))
        for part_name, part in parts:
            self.read_schema(part_name, part, is_request=is_request, within=within)

    def limit(self, promise: str, text: str) -> None:
        self.limits.setdefault(promise, set()).add(text)
