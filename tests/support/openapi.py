"""Checks that a response is what chalicelib/openapi.json describes."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from openapi_schema_validator import OAS31Validator, oas31_format_checker

from tests.support.world import ROOT, Answer, Json

DOCUMENT = json.loads(Path(ROOT, "chalicelib", "openapi.json").read_text(encoding="utf-8"))
PROBLEM = "application/problem+json"


def resolve(value: Json) -> Json:
    """Follow a reference within the document, and return the object to which it leads; return an
    object without `$ref` as it is.
    """
    while "$ref" in value:
        found = DOCUMENT
        for name in value["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        value = found
    return value


def assert_fits(value: object, schema: Json) -> None:
    """Check a value against a schema of the document; raise AssertionError with all faults."""
    faults = [
        f"{error.json_path}: {error.message}"
        for error in _validator(json.dumps(schema)).iter_errors(value)
    ]
    assert faults == []


def assert_described(method: str, route: str, answer: Answer) -> None:
    """Check that the document describes status, headers and body of an answer, and that the answer
    has nothing else.
    """
    operation = DOCUMENT["paths"][route][method.lower()]
    described = resolve(operation["responses"][str(answer.status_code)])
    headers = {
        name.lower(): resolve(header) for name, header in described.get("headers", {}).items()
    }
    content = described.get("content", {})
    content_type = answer.headers.get("content-type")
    assert (content_type in content) == bool(content), content_type
    given = answer.headers.keys() - {"content-type"}
    assert given <= headers.keys()
    assert given >= {name for name, header in headers.items() if header.get("required")}
    for name in given:
        value = answer.headers[name]
        schema = headers[name]["schema"]
        assert_fits(int(value) if schema["type"] == "integer" else value, schema)
    if content_type and content_type.endswith("json"):
        assert_fits(
            answer.json, {**content[content_type]["schema"], "unevaluatedProperties": False}
        )
    if content_type == PROBLEM:
        described_problem = content[PROBLEM]
        named = described_problem.get("examples") or {"": {"value": described_problem["example"]}}
        examples = [(each["value"]["status"], each["value"]["code"]) for each in named.values()]
        assert (answer.json["status"], answer.json["code"]) in examples


def _close_lists(schema: Json) -> Json:
    """Return a schema that, if it describes a list, forbids members of the list's objects that it
    does not describe.
    """
    return (
        schema | {"items": schema["items"] | {"unevaluatedProperties": False}}
        if "items" in schema
        else schema
    )


@cache
def _validator(schema: str) -> Any:
    """Return a validator for a schema of the document.

    :param schema: The schema as JSON, so that the validator can be cached.
    """
    closed = json.loads(json.dumps(DOCUMENT["components"]), object_hook=_close_lists)
    return OAS31Validator(
        {**json.loads(schema), "components": closed}, format_checker=oas31_format_checker
    )
