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
    """Return the object of the document to which the `$ref` of an object leads, by way of further
    references if need be; return an object without `$ref` unchanged.
    """
    while "$ref" in value:
        target = DOCUMENT
        for name in value["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        value = target
    return value


def assert_fits(value: object, schema: Json) -> None:
    """Check a value against a schema of the document; raise AssertionError with all faults."""
    faults = [
        f"{error.json_path}: {error.message}"
        for error in _validator(json.dumps(schema)).iter_errors(value)
    ]
    assert faults == []


def assert_described(method: str, route: str, answer: Answer) -> None:
    """Check that the document describes the status code, the headers and the body of a response,
    that the response has all headers that the document requires, and no header and no member of the
    body that the document does not describe. The code of a problem must be one of the examples.

    Raise AssertionError, or KeyError if the document has no such operation or status code.

    :param route: The route of the request, such as `/events/{event_id}`.
    """
    operation = DOCUMENT["paths"][route][method.lower()]
    described = resolve(operation["responses"][str(answer.status_code)])
    described_headers = {
        name.lower(): resolve(header) for name, header in described.get("headers", {}).items()
    }
    content = described.get("content", {})
    content_type = answer.headers.get("content-type")
    if content:
        assert content_type in content, content_type
    required = {name for name, header in described_headers.items() if header.get("required")}
    actual = answer.headers.keys() - {"content-type"}
    assert actual <= described_headers.keys()
    assert actual >= required
    for name in actual:
        value = answer.headers[name]
        schema = described_headers[name]["schema"]
        # The value of a header is a text; the schema describes what the text stands for.
        assert_fits(int(value) if schema["type"] == "integer" else value, schema)
    if content_type and content_type.endswith("json"):
        schema = content[content_type]["schema"]
        assert_fits(answer.json, {**schema, "unevaluatedProperties": False})
    if content_type == PROBLEM:
        if "examples" in content[PROBLEM]:
            examples = [example["value"] for example in content[PROBLEM]["examples"].values()]
        else:
            examples = [content[PROBLEM]["example"]]
        codes = [(example["status"], example["code"]) for example in examples]
        assert (answer.json["status"], answer.json["code"]) in codes


def _close_lists(schema: Json) -> Json:
    """Return a schema of a list changed, so that the objects in the list may only have members that
    the schema describes; return any other schema unchanged.
    """
    if "items" not in schema:
        return schema
    return {**schema, "items": {**schema["items"], "unevaluatedProperties": False}}


@cache
def _validator(schema: str) -> Any:
    """Return a validator of openapi_schema_validator for a schema of the document. In the lists of
    the document's components, objects may only have members that the schema describes.

    :param schema: The schema as JSON, because the arguments of a cached function must be hashable.
    """
    components = json.loads(json.dumps(DOCUMENT["components"]), object_hook=_close_lists)
    return OAS31Validator(
        {**json.loads(schema), "components": components}, format_checker=oas31_format_checker
    )
