"""The OpenAPI document is valid and complete. Every response of the functional tests is checked
against it as well.
"""

import json
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

import app
from chalicelib import __version__
from tests.support.openapi import DOCUMENT, resolve
from tests.support.promises import find_lost, read_promises
from tests.support.receiver import Receiver
from tests.support.world import CONSUMER_KEY, PRODUCER_KEY, ROOT, Json, World, digest

ITEMS = [(path, *member) for path, item in DOCUMENT["paths"].items() for member in item.items()]
OPERATIONS = [
    (method.upper(), path, operation) for path, method, operation in ITEMS if method != "parameters"
]
IDS = [operation["operationId"] for _, _, operation in OPERATIONS]
NO_BODY: Json = {"content": {"application/json": {"examples": {"": {"value": None}}}}}
for_each_operation = pytest.mark.parametrize("method, path, operation", OPERATIONS, ids=IDS)
ERASER_KEY = "eraser-key"
SCOPES = {PRODUCER_KEY: "produce", CONSUMER_KEY: "consume", ERASER_KEY: "erase"}


@pytest.fixture
def world(world: World) -> World:
    world.restart(API_KEYS=f"{world.environ['API_KEYS']},eraser:{digest(ERASER_KEY)}:erase")
    return world


def example_path(path: str) -> str:
    return path.format(event_id="evt_" + "0" * 32, subscription_id="sub_" + "0" * 32)


def accepted_keys(operation: Json) -> list[str]:
    """Return the keys of SCOPES that may call an operation; one without scopes takes any key, or
    none.
    """
    scopes = {
        scope for requirement in operation["security"] for scope in requirement.get("bearer", [])
    }
    return [key for key, scope in SCOPES.items() if scope in scopes or not scopes]


def test_it_is_a_valid_document_of_this_version_and_describes_all_routes() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()

    assert DOCUMENT["info"]["version"] == __version__
    routes = {(method, path) for path, methods in app.app.routes.items() for method in methods}
    assert {(method, path) for method, path, _ in OPERATIONS} == routes
    links = DOCUMENT["paths"]["/events"]["post"]["responses"]["202"]["links"].values()
    assert {link["operationId"] for link in links} <= set(IDS)


def test_what_1_0_promised_is_kept_until_2_0() -> None:
    before = json.loads((ROOT / "tests" / "support" / "promises-1.0.json").read_text("utf-8"))

    assert find_lost(before, read_promises()) == []


@for_each_operation
def test_each_operation_requires_its_scopes(
    world: World, method: str, path: str, operation: Json
) -> None:
    schemes = {scheme for requirement in operation["security"] for scheme in requirement}

    token = world.make_token("customer-42")
    answers = {
        key: world.call(method, example_path(path), key=key) for key in (None, *SCOPES, token)
    }

    refused = [key for key, answer in answers.items() if answer.status_code in (401, 403)]
    taken = [*([] if schemes else [None]), *accepted_keys(operation)]
    taken += (
        [token]
        if not schemes or ("token" in schemes and operation["operationId"] != "listEvents")
        else []
    )
    assert [key for key in answers if key not in refused] == taken
    assert schemes - {"token"} in ({"bearer", "basic"}, set())


def schemas_in(node: object) -> Iterator[Json]:
    """Yield every object of a part of the document."""
    if isinstance(node, dict):
        yield node
    members = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for member in members:
        yield from schemas_in(member)


def test_each_object_without_members_says_that_it_has_any() -> None:
    # Else generators make a type of it that can have no member.
    closed = [
        schema
        for schema in schemas_in(DOCUMENT)
        if "object" in (schema.get("type"), *schema.get("type", ()))
        and not schema.get("properties")
        and "additionalProperties" not in schema
    ]

    assert closed == []


@for_each_operation
def test_a_body_is_required_where_a_call_without_one_is_refused(
    world: World, method: str, path: str, operation: Json
) -> None:
    if "requestBody" in operation:
        answer = world.call(method, example_path(path), key=accepted_keys(operation)[0])
        assert operation["requestBody"]["required"] is (answer.status_code == 400)


@for_each_operation
def test_examples_are_taken(
    world: World, receiver: Receiver, method: str, path: str, operation: Json
) -> None:
    examples: Json = {"query": {}, "header": {}}
    for parameter in map(resolve, operation.get("parameters", ())):
        if "example" in parameter:
            examples[parameter["in"]][parameter["name"]] = parameter["example"]
    url = f"{example_path(path)}?{urlencode(examples['query'])}"
    key = accepted_keys(operation)[0]

    content = operation.get("requestBody", NO_BODY)["content"]["application/json"]
    for example in content["examples"].values():
        answer = world.call(method, url, example["value"], key=key, **examples["header"])
        assert answer.status_code in (200, 201, 202, 204, 404), answer.text
