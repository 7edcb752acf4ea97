"""The OpenAPI document tells the truth: what it says is valid, is what the routes are, and is what is answered.

Its examples are really sent and compared with what comes back, and schemathesis makes up many more calls from it.
OPENAPI_CASES=1000 makes it try longer.
"""

import contextlib
import hashlib
import http.client
import json
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urljoin, urlsplit

import hypothesis
import pytest
import schemathesis
from chalice.config import Config
from chalice.local import ThreadedHTTPServer
from openapi_schema_validator import OAS31Validator, oas31_format_checker
from openapi_spec_validator import OpenAPIV31SpecValidator

import app
from chalicelib import __version__, push, services
from tests.support.aws import Aws, Fault
from tests.support.receiver import Exchange, Receiver, status
from tests.support.world import CONSUMER_KEY, KEY, PRODUCER_KEY, Answer, World
from tools.package import overlay
from tools.server import create_server
from tools.stage import API_STAGE

DOCUMENT_FILE = Path(app.__file__).parent / "chalicelib" / "openapi.json"
DOCUMENT: dict[str, Any] = json.loads(DOCUMENT_FILE.read_text(encoding="utf-8"))
CASES = int(os.environ.get("OPENAPI_CASES", "150"))
METHODS = ("GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH")  # what API Gateway knows
UNKNOWN = "evt_" + "0" * 32


def resolved(value: dict[str, Any]) -> dict[str, Any]:
    """Return what a reference stands for, or the value itself."""
    while "$ref" in value:
        found: Any = DOCUMENT
        for name in value["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        value = found
    return value


@dataclass(frozen=True)
class Operation:
    """One call as the document describes it."""

    method: str
    path: str
    described: dict[str, Any]

    @property
    def parameters(self) -> list[dict[str, Any]]:
        return [resolved(parameter) for parameter in self.described.get("parameters", [])]

    @property
    def request_examples(self) -> dict[str, Any]:
        content = self.described["requestBody"]["content"]["application/json"]
        return {name: example["value"] for name, example in content["examples"].items()}

    def response_examples(self, status_code: str) -> dict[str, Any]:
        """Return the examples of an answer by name; one without a name where it shows none."""
        contents = self.response(status_code).get("content", {}).values()
        shown = {
            name: example["value"] for content in contents for name, example in content.get("examples", {}).items()
        }
        return shown or {"": None}

    @property
    def scopes(self) -> set[str]:
        return {scope for way in self.described["security"] for scope in way["apiKey"]}

    def response(self, status_code: str) -> dict[str, Any]:
        return resolved(self.described["responses"][status_code])


OPERATIONS = {
    described["operationId"]: Operation(method.upper(), path, described)
    for path, item in DOCUMENT["paths"].items()
    for method, described in item.items()
    if method.upper() in METHODS
}
ORDER, SMALLEST = OPERATIONS["postEvent"].request_examples.values()
CURSOR = OPERATIONS["listEvents"].response_examples("200")["page"]["next_cursor"]
# What API Gateway answers by itself: which of its responses each example shows.
GATEWAY = {
    "413": {"too large for the gateway": "REQUEST_TOO_LARGE"},
    "429": {"too many": "THROTTLED"},
    "504": {"no answer": "INTEGRATION_FAILURE", "too late": "INTEGRATION_TIMEOUT"},
}
ANSWERS = [
    (name, code)
    for name, operation in OPERATIONS.items()
    for code in operation.described["responses"]
    if code not in ("429", "504")
]


# The document itself


def test_it_is_a_valid_openapi_document_of_this_version() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()

    assert DOCUMENT["info"]["version"] == __version__


def test_it_is_served_as_it_stands_without_a_key_and_without_touching_aws(world: World, aws: Aws) -> None:
    answer = world.call("GET", "/openapi.json", key=None)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.text == DOCUMENT_FILE.read_text(encoding="utf-8")
    assert aws.calls == []


def test_it_describes_the_routes_that_there_are() -> None:
    routes = {(method, path) for path, methods in app.app.routes.items() for method in methods}

    assert {(operation.method, operation.path) for operation in OPERATIONS.values()} == routes


@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_each_call_needs_the_scopes_that_it_says(world: World, operation_id: str) -> None:
    scopes = OPERATIONS[operation_id].scopes
    stage = Stage(world)

    answers = [stage.call(operation_id, key=key).status_code for key in (None, PRODUCER_KEY, CONSUMER_KEY)]

    assert [code in (401, 403) for code in answers] == [
        bool(scopes),
        bool(scopes) and "produce" not in scopes,
        bool(scopes) and "consume" not in scopes,
    ]


def described_values() -> Iterator[tuple[dict[str, Any], object]]:
    """Yield every example in the document with the schema that it must fit."""

    def walk(node: Any) -> Iterator[tuple[dict[str, Any], object]]:
        if isinstance(node, dict):
            if "schema" in node:
                yield from ((node["schema"], example["value"]) for example in node.get("examples", {}).values())
                yield from ((node["schema"], node[name]) for name in ("example",) if name in node)
            elif isinstance(node.get("examples"), list):
                yield from ((node, example) for example in node["examples"])
            for child in node.values():
                yield from walk(child)
        elif isinstance(node, list):
            for child in node:
                yield from walk(child)

    yield from walk(DOCUMENT)


def assert_fits(value: object, schema: dict[str, Any]) -> None:
    whole = {**schema, "components": DOCUMENT["components"]}
    OAS31Validator(whole, format_checker=oas31_format_checker).validate(value)


def test_every_example_fits_its_schema() -> None:
    pairs = list(described_values())

    assert len(pairs) > 40
    for schema, value in pairs:
        assert_fits(value, schema)


# Examples against the real thing


@dataclass
class Stage:
    """A system on which the calls of the document are made."""

    world: World

    def call(
        self,
        operation_id: str,
        body: object = ORDER,
        *,
        event_id: str = UNKNOWN,
        query: str = "",
        key: str | None = KEY,
        **headers: str,
    ) -> Answer:
        operation = OPERATIONS[operation_id]
        path = operation.path.format(event_id=event_id) + query
        text = body if isinstance(body, str) else json.dumps(body)
        return self.world.call(operation.method, path, text if operation.method == "POST" else None, key=key, **headers)

    def post(self, body: object = ORDER) -> str:
        event_id: str = self.call("postEvent", body).json["event_id"]
        return event_id


@dataclass
class Scene(Stage):
    """A stage for one call, with the hands that make it end one way or another."""

    operation_id: str
    receiver: Receiver
    aws: Aws

    def posted(self, receiver_status: int = 200, **headers: str) -> Answer:
        self.receiver.script(status(receiver_status))
        return self.call("postEvent", **headers)

    def posted_twice(self, body: object) -> Answer:
        self.call("postEvent", idempotency_key="order-12345-created")
        return self.call("postEvent", body, idempotency_key="order-12345-created")

    def faulty_post(self) -> Answer:
        return self.call("postEvent", {"event_type": "a b", "payload": [], "colour": "red"}, idempotency_key="")

    def listed(self, operation_id: str, query: str) -> Answer:
        self.receiver.script(status(200), status(200))
        self.post()
        self.post()
        return self.call(operation_id, query=query)

    def inbox(self) -> Answer:
        self.receiver.script(status(503), status(404))
        self.post()
        self.world.clock.sleep(0.5)
        self.post(SMALLEST)
        return self.call("listInbox")

    def delivered_at_the_second_attempt(self) -> Answer:
        self.receiver.script(status(503))
        event_id = self.post()
        self.world.settle()
        return self.call("getEvent", event_id=event_id)

    def pulled(self) -> Answer:
        self.receiver.script(status(404))
        event_id = self.post()
        self.call("acknowledgeEvent", event_id=event_id)
        return self.call("getEvent", event_id=event_id)

    def replayed_meanwhile(self) -> Answer:
        seen: list[Answer] = []

        def replay(exchange: Exchange) -> None:
            seen.append(self.call("replayEvent", event_id=exchange.request.headers["webhook-id"]))
            status(200)(exchange)

        self.receiver.script(replay)
        self.post()
        return seen[0]

    def with_the_wrong_scope(self) -> Answer:
        scopes = OPERATIONS[self.operation_id].scopes
        return self.call(self.operation_id, key=CONSUMER_KEY if scopes == {"produce"} else PRODUCER_KEY)

    def without_settings(self) -> Answer:
        services.use(None)
        try:
            return self.call(self.operation_id)
        finally:
            services.use(self.world.services)

    def without_dynamodb(self) -> Answer:
        self.aws.fail(Fault.REFUSED)
        return self.call(self.operation_id)


# How each example comes about, by its name; "" where an answer has no body or no example.
SCENES: dict[tuple[str, str], dict[str, Callable[[Scene], Answer]]] = {
    ("postEvent", "202"): {
        "delivered": lambda scene: scene.posted(),
        "to be tried again": lambda scene: scene.posted(503),
        "refused": lambda scene: scene.posted(404),
        "repeated": lambda scene: scene.posted_twice(ORDER),
        "queued": lambda scene: scene.posted(prefer="respond-async"),
    },
    ("postEvent", "400"): {
        "faults": Scene.faulty_post,
        "not JSON": lambda scene: scene.call("postEvent", '{"event_type": order}'),
    },
    ("postEvent", "413"): {"too large": lambda scene: scene.call("postEvent", " " * (256 * 1024 + 1))},
    ("postEvent", "415"): {"not JSON": lambda scene: scene.call("postEvent", content_type="text/plain")},
    ("postEvent", "422"): {"another body": lambda scene: scene.posted_twice(SMALLEST)},
    ("listEvents", "200"): {
        "page": lambda scene: scene.listed("listEvents", "?limit=1"),
        "last page": lambda scene: scene.call("listEvents"),
    },
    ("listEvents", "400"): {
        "faults": lambda scene: scene.call("listEvents", query="?colour=red&status=lost&limit=0&cursor=x"),
    },
    ("getEvent", "200"): {"delivered": Scene.delivered_at_the_second_attempt, "pulled": Scene.pulled},
    ("acknowledgeEvent", "204"): {"": lambda scene: scene.call("acknowledgeEvent", event_id=scene.post())},
    ("replayEvent", "202"): {"replayed": lambda scene: scene.call("replayEvent", event_id=scene.post())},
    ("replayEvent", "409"): {"being pushed": Scene.replayed_meanwhile},
    ("listInbox", "200"): {"page": Scene.inbox},
    ("listInbox", "400"): {
        "faults": lambda scene: scene.call("listInbox", query="?status=failed&event_type=a%20b&order=up"),
    },
    ("getHealth", "200"): {"healthy": lambda scene: scene.call("getHealth", key=None)},
    ("getOpenApi", "200"): {"": lambda scene: scene.call("getOpenApi", key=None)},
}
FAILURES: dict[str, dict[str, Callable[[Scene], Answer]]] = {
    "401": {"no key": lambda scene: scene.call(scene.operation_id, key=None)},
    "403": {"lacks the scope": Scene.with_the_wrong_scope},
    "404": {"unknown": lambda scene: scene.call(scene.operation_id)},
    "500": {"mistake": Scene.without_settings},
    "503": {"no answer": Scene.without_dynamodb},
}


def normal(value: object) -> str:
    """Return JSON in which what differs each time has the same name each time; order of members counts."""
    text = json.dumps(value)
    for number, event_id in enumerate(dict.fromkeys(re.findall("evt_[0-9a-f]{32}", text))):
        text = text.replace(event_id, f"event {number}")
    for pattern, name in (
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "time"),
        (r'(?<="duration_ms": )\d+', "duration"),
        (r'(?<="next_cursor": ")[\w-]{96}', "cursor"),
        (r"\b\d+\.\d+\.\d+\b", "version"),
    ):
        text = re.sub(pattern, name, text)
    return text


@pytest.mark.parametrize(("operation_id", "status_code"), ANSWERS)
def test_what_is_answered_is_what_the_examples_show(
    world: World, receiver: Receiver, aws: Aws, operation_id: str, status_code: str
) -> None:
    response = OPERATIONS[operation_id].response(status_code)
    content_type = next(iter(response.get("content", [])), None)
    examples = OPERATIONS[operation_id].response_examples(status_code)
    for name in GATEWAY.get(status_code, ()):
        del examples[name]
    scenes = SCENES.get((operation_id, status_code)) or FAILURES[status_code]
    headers = {name.lower(): resolved(header) for name, header in response.get("headers", {}).items()}
    seen: set[str] = set()

    assert examples.keys() == scenes.keys()
    for name, play in scenes.items():
        world.forget(ZAPIER_WEBHOOK_URL=receiver.url)
        answer = play(Scene(world, operation_id, receiver, aws))

        assert answer.status_code == int(status_code)
        assert answer.headers.pop("content-type", None) == content_type
        if name:
            assert normal(answer.json) == normal(examples[name])
        assert answer.headers.keys() >= {name for name, header in headers.items() if header.get("required")}
        seen |= answer.headers.keys()
    assert seen == headers.keys()


@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_what_api_gateway_answers_by_itself_is_what_the_examples_show(operation_id: str) -> None:
    answers = overlay()["Resources"]["RestAPI"]["Properties"]["DefinitionBody"]["x-amazon-apigateway-gateway-responses"]
    operation = OPERATIONS[operation_id]

    assert operation.described["responses"].keys() >= {"429", "504"}
    for code, shown in GATEWAY.items():
        if code not in operation.described["responses"]:
            continue
        examples = operation.response_examples(code)
        for name, response in shown.items():
            answer = answers[response]
            parameters = answer["responseParameters"]
            sent = {
                name.removeprefix("gatewayresponse.header."): value.strip("'") for name, value in parameters.items()
            }
            assert answer["statusCode"] == code
            assert json.loads(answer["responseTemplates"]["application/json"]) == examples[name]
            assert sent.pop("Content-Type") in operation.response(code)["content"]
            assert sent.keys() == operation.response(code).get("headers", {}).keys()
            assert all(int(value) > 0 for value in sent.values())


@pytest.mark.parametrize("example", OPERATIONS["postEvent"].request_examples.values())
def test_every_body_shown_can_be_posted_and_is_stored_as_it_is(world: World, example: dict[str, Any]) -> None:
    event = world.event(Stage(world).post(example))

    assert {name: event[name] for name in ("event_type", "payload", "metadata")} == {"metadata": None, **example}


@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_every_parameter_shown_is_taken(world: World, operation_id: str) -> None:
    stage = Stage(world)
    for parameter in OPERATIONS[operation_id].parameters:
        example = str(parameter.get("example", ""))
        if example and parameter["in"] == "header":
            answer = stage.call(operation_id, **{parameter["name"]: example})
        elif example:
            answer = stage.call(operation_id, query=f"?{parameter['name']}={example}")
        else:
            continue
        assert answer.status_code in (200, 202), parameter["name"]


def test_a_receiver_gets_what_the_webhook_section_shows(world: World, receiver: Receiver) -> None:
    webhook = Operation("POST", "", DOCUMENT["webhooks"]["event"]["post"])
    shown = {parameter["name"].lower(): parameter["example"] for parameter in webhook.parameters}
    world.restart(WEBHOOK_SIGNING_SECRETS="whsec_VHJpZ2dlcnMgQVBJIGV4YW1wbGU=")

    Stage(world).post()

    pushed = receiver.requests[0]
    assert normal(pushed.json()) == normal(webhook.request_examples["order"])
    assert pushed.headers["content-type"] == "application/json"
    assert {name for name in pushed.headers if name.startswith("webhook-")} | {"user-agent"} == shown.keys()
    assert normal(pushed.headers["user-agent"]) == normal(shown["user-agent"])
    for parameter in webhook.parameters:
        assert_fits(pushed.headers[parameter["name"].lower()], parameter["schema"])


def test_the_signature_shown_is_that_of_the_example() -> None:
    webhook = Operation("POST", "", DOCUMENT["webhooks"]["event"]["post"])
    shown = {parameter["name"]: parameter["example"] for parameter in webhook.parameters}
    body = json.dumps(webhook.request_examples["order"], separators=(",", ":")).encode()

    signature = push.signature([b"Triggers API example"], shown["webhook-id"], int(shown["webhook-timestamp"]), body)

    assert shown["webhook-signature"] == signature


# Made-up calls

CONFIG = {
    "seed": 1,
    "phases": {
        # What is made up must not hang on what was answered before, which holds ids and times.
        "examples": {"extra-data-sources": {"responses": False}},
        "coverage": {
            "extra-data-sources": {"responses": False},
            # schemathesis sends no HEAD, and a server may answer 501 to what API Gateway does not know.
            "unexpected-methods": [method for method in METHODS if method != "HEAD"],
        },
        "fuzzing": {"extra-data-sources": {"responses": False}, "error-feedback": {"enabled": False}},
    },
}
Case: TypeAlias = schemathesis.Case[Any]
SETTINGS = hypothesis.settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=CASES,
    stateful_step_count=6,
    # The system is one for all cases of a call, as it would be for callers.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
made_up = schemathesis.openapi.from_dict(DOCUMENT, config=schemathesis.Config.from_dict(CONFIG))


@dataclass(frozen=True)
class Served:
    """A system behind the local server, and events in it of every status."""

    url: str
    event_ids: list[str]

    @property
    def where(self) -> dict[str, Any]:
        return {"base_url": self.url, "headers": {"Authorization": f"Bearer {KEY}"}}

    def make_valid(self, case: Case) -> None:
        """Put into a valid case what no schema can tell: a cursor that was given, a key that had no other body."""
        if case.meta is None or not case.meta.generation.mode.is_positive:
            return
        if "cursor" in case.query:
            case.query["cursor"] = CURSOR
        if "Idempotency-Key" in case.headers:
            digest = hashlib.sha256(repr(case.body).encode()).hexdigest()
            case.headers["Idempotency-Key"] = (case.headers["Idempotency-Key"] + digest)[-255:]

    def name_an_event(self, case: Case) -> None:
        """Put an event that there is into six of eight cases."""
        event_id = case.path_parameters.get("event_id", "")
        choice = zlib.crc32(event_id.encode()) % 8
        if re.fullmatch("evt_[0-9a-f]{32}", event_id) and choice < len(self.event_ids):
            case.path_parameters["event_id"] = self.event_ids[choice]

    def ask(self, method: str, path: str) -> Answer:
        with contextlib.closing(http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=10)) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, headers, answer.read().decode())


@pytest.fixture
def served(world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A receiver that takes one event, is in trouble at the next, refuses one, and so on."""
    answers = cycle([status(200), status(503), status(404)])

    def answer(exchange: Exchange) -> None:
        next(answers)(exchange)

    receiver.default = answer
    world.restart(BREAKER_FAILURES="1000000")
    event_ids = [Stage(world).post() for _ in range(6)]
    monkeypatch.setattr(ThreadedHTTPServer, "daemon_threads", True)
    monkeypatch.setattr(app.app, "__class__", app.app.__class__)  # the server's own class goes when it goes
    server = create_server(app.app, Config.create(), 0).server
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    yield Served(f"http://127.0.0.1:{server.server_port}", event_ids)
    server.shutdown()
    server.server_close()
    serving.join()


def test_urls_made_from_the_servers_lead_to_the_api(served: Served) -> None:
    here, ours = (server["url"] for server in DOCUMENT["servers"])
    path = f"{here}/health"

    assert served.ask("GET", path).json["status"] == "ok"
    assert ours == "http://127.0.0.1:8000"
    assert here == f"/{API_STAGE}"
    for origin in (served.url, "https://abc123.execute-api.us-east-1.amazonaws.com"):
        for document in (f"{origin}/openapi.json", f"{origin}{here}/openapi.json"):
            assert urljoin(document, here) + "/health" == origin + path  # RFC 3986, then appended as OpenAPI says


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_path_or_method_is_a_problem_like_any_other(served: Served, method: str) -> None:
    described: dict[str, set[str]] = {"/nowhere": set()}
    for operation in OPERATIONS.values():
        described.setdefault(operation.path.format(event_id=UNKNOWN), set()).add(operation.method)

    for path, methods in described.items():
        if method in methods:
            continue
        answer = served.ask(method, path)

        assert answer.status_code == (405 if methods else 404)
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(answer.headers.get("allow", "").split(", ")) == (methods or {""})
        if methods and method == "DELETE":
            refusal = DOCUMENT["components"]["responses"]["MethodNotAllowed"]
            assert refusal["headers"].keys() == {"Allow"}
            assert answer.json == refusal["content"]["application/problem+json"]["examples"]["wrong method"]["value"]
        if method == "HEAD":
            assert answer.text == ""
        else:
            assert answer.json["status"] == answer.status_code
            assert_fits(answer.json, {"$ref": "#/components/schemas/Problem"})


@made_up.parametrize()
@SETTINGS
def test_whatever_the_document_allows_or_forbids_is_answered_as_it_says(case: Case, served: Served) -> None:
    served.make_valid(case)
    served.name_an_event(case)
    case.call_and_validate(**served.where)


def test_whatever_becomes_of_an_event_is_answered_as_the_document_says(
    served: Served, world: World, receiver: Receiver
) -> None:
    class Walk(made_up.as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            """Begin with nothing: what a step is given by an answer must not hang on earlier walks."""
            receiver.default = status(404)
            world.forget(ZAPIER_WEBHOOK_URL=receiver.url)

        def before_call(self, case: Case) -> None:
            served.make_valid(case)

        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return served.where

    Walk.run(settings=hypothesis.settings(SETTINGS, max_examples=CASES // 10 + 1))
