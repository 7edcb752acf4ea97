"""The only file that knows Chalice: routes, the worker, the schedules. Each translates, calls and answers."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from chalice.app import Chalice, CloudWatchEvent, Rate, Request, Response, SQSEvent

from chalicelib import __version__, batch, delivery, listing, log, schedules, services
from chalicelib.auth import ApiKey, Scope, authenticate, authorize
from chalicelib.errors import EventNotFoundError, Fault, MethodNotAllowedError, TriggersError, UnsupportedMediaTypeError
from chalicelib.events import EVENT_ID, compact
from chalicelib.services import Services
from chalicelib.settings import load_event_source
from chalicelib.sqs import Received
from chalicelib.validation import parse_new_event

event_source = load_event_source(os.environ)
app = Chalice(app_name=f"triggers-api-{event_source.stage}", configure_logs=False)  # what API Gateway calls the API

OPENAPI = Path(__file__).parent / "chalicelib" / "openapi.json"
TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}  # RFC 9110; HTTPStatus has them since Python 3.13
NOBODY = ApiKey(name="", digest="", scopes=frozenset())


@dataclass(frozen=True)
class Call:
    """One call of the API, and the key that it was made with."""

    request: Request
    services: Services
    key: ApiKey

    @property
    def query(self) -> dict[str, list[str]]:
        parameters = self.request.query_params
        return {name: parameters.getlist(name) for name in parameters} if parameters else {}


def route(method: str, path: str, *scopes: Scope) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """Register a view that is given a Call; one of `scopes` is needed, no key where there is none.

    Whatever goes wrong in the view becomes a problem document.
    """

    def register(view: Callable[..., Response]) -> Callable[..., Response]:
        def edge(**captured: str) -> Response:
            request: Any = app.current_request
            with log.request_id(request.lambda_context.aws_request_id):
                try:
                    held = services.get()
                    key = NOBODY
                    if scopes:
                        key = authenticate(request.headers.get("authorization"), held.settings.api_keys)
                        authorize(key, scopes)
                    return view(Call(request, held, key), **captured)
                except TriggersError as error:
                    return problem(error)
                except Exception:
                    log.exception("request failed", method=method, path=path)
                    return problem(TriggersError())

        # No content types: Chalice would answer 415 in its own way, and to `Application/JSON` too.
        app.route(path, methods=[method], name=view.__name__, content_types=[])(edge)
        return view

    return register


def problem(error: TriggersError) -> Response:
    """Answer with a problem document (RFC 9457)."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": TITLES.get(error.status_code) or HTTPStatus(error.status_code).phrase,
        "status": error.status_code,
        "detail": str(error),
    }
    if error.faults:
        document["errors"] = [vars(fault) for fault in error.faults]
    headers: dict[str, str | list[str]] = {"Content-Type": "application/problem+json"}
    if error.status_code == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    return Response(compact(document), headers, error.status_code)


def answer(status_code: int, body: str, **headers: str) -> Response:
    return Response(body, {"Content-Type": "application/json", **headers}, status_code)


@app.middleware("http")
def method_not_allowed_as_problem(request: Request, get_response: Callable[[Request], Response]) -> Response:
    """Give Chalice's own answer to a wrong method the form of every other error."""
    response = get_response(request)
    if response.status_code != HTTPStatus.METHOD_NOT_ALLOWED:
        return response
    refusal = problem(MethodNotAllowedError(f"{request.method} is not a method of this resource."))
    refusal.headers["Allow"] = response.headers["Allow"]
    return refusal


@route("GET", "/health")
def get_health(call: Call) -> Response:
    return answer(200, compact({"status": "ok", "version": __version__, "stage": call.services.settings.stage}))


@route("GET", "/openapi.json")
def get_openapi(_: Call) -> Response:
    return answer(200, OPENAPI.read_text(encoding="utf-8"))


@route("POST", "/events", Scope.PRODUCE)
def post_event(call: Call) -> Response:
    headers = call.request.headers
    body: Any = call.request.raw_body  # bytes, though Chalice's hint leaves it open
    require_json(headers.get("content-type", ""))
    idempotency_key = headers.get("idempotency-key")
    respond_async = prefers_async(headers.get("prefer", ""))
    event, is_repeated = delivery.accept(
        parse_new_event(body, idempotency_key_faults(idempotency_key)),
        call.services,
        created_by=call.key.name,
        idempotency_key=idempotency_key,
        respond_async=respond_async,
    )
    extra = {"Location": f"/events/{event.event_id}"}
    if is_repeated:
        extra["Idempotency-Replayed"] = "true"
    if respond_async:
        extra["Preference-Applied"] = "respond-async"
    return answer(202, event.to_json(), **extra)


@route("GET", "/events/{event_id}", Scope.PRODUCE, Scope.CONSUME)
def get_event(call: Call, event_id: str) -> Response:
    event = call.services.store.get(valid(event_id))
    if event is None or (Scope.CONSUME not in call.key.scopes and event.created_by != call.key.name):
        raise EventNotFoundError
    return answer(200, event.to_json(body=True, attempts=True))


@route("GET", "/events", Scope.CONSUME)
def list_events(call: Call) -> Response:
    query = listing.parse_events_query(call.query)
    page = listing.events_page(call.services.store, query, now=call.services.clock())
    return answer_page(page, body=False)


@route("GET", "/inbox", Scope.CONSUME)
def list_inbox(call: Call) -> Response:
    query = listing.parse_inbox_query(call.query)
    page = listing.inbox_page(call.services.store, query, now=call.services.clock())
    return answer_page(page, body=True)


@route("POST", "/events/{event_id}/acknowledge", Scope.CONSUME)
def acknowledge_event(call: Call, event_id: str) -> Response:
    delivery.acknowledge(valid(event_id), call.services)
    return Response("", {}, 204)


@route("POST", "/events/{event_id}/replay", Scope.CONSUME)
def replay_event(call: Call, event_id: str) -> Response:
    event = delivery.replay(valid(event_id), call.services)
    return answer(202, event.to_json(), Location=f"/events/{event_id}")


@app.on_sqs_message(
    queue=event_source.queue_name,
    batch_size=10,
    maximum_batching_window_in_seconds=event_source.batch_window_seconds,
    maximum_concurrency=event_source.maximum_concurrency,
)
def worker(event: SQSEvent) -> None:
    """Serve a batch. Raises when messages could not be served: SQS gives them back after the visibility timeout."""
    context: Any = event.context
    messages = [Received(record.to_dict()["messageId"], record.receipt_handle, record.body) for record in event]
    with log.request_id(context.aws_request_id):
        batch.serve(messages, services.get(), remaining_seconds(context))


@app.schedule(Rate(1, unit=Rate.MINUTES))
def sweep(event: CloudWatchEvent) -> None:
    context: Any = event.context
    with log.request_id(context.aws_request_id):
        schedules.sweep(services.get(), remaining_seconds(context))


@app.schedule(Rate(5, unit=Rate.MINUTES))
def check_dlq(event: CloudWatchEvent) -> None:
    context: Any = event.context
    with log.request_id(context.aws_request_id):
        schedules.check_dlq(services.get())


def remaining_seconds(context: Any) -> float:
    return float(context.get_remaining_time_in_millis()) / 1000


def valid(event_id: str) -> str:
    """Return `event_id`; raise EventNotFoundError, without asking DynamoDB, if it cannot be one."""
    if not EVENT_ID.fullmatch(event_id):
        raise EventNotFoundError
    return event_id


def require_json(content_type: str) -> None:
    if content_type.split(";")[0].strip().lower() not in ("", "application/json"):
        raise UnsupportedMediaTypeError


def idempotency_key_faults(value: str | None) -> tuple[Fault, ...]:
    """Return what is wrong with an Idempotency-Key, which counts as it stands, quotes included."""
    if value is None or re.fullmatch(r"[\x20-\x7e]{1,255}", value):
        return ()
    return (Fault("Idempotency-Key", "must be 1 to 255 printable ASCII characters"),)


def prefers_async(prefer: str) -> bool:
    """Return whether `Prefer` (RFC 7240) asks not to wait for the push."""
    return any(part.split(";")[0].strip().lower() == "respond-async" for part in prefer.split(","))


def answer_page(page: listing.Page, *, body: bool) -> Response:
    events = ",".join(event.to_json(body=body) for event in page.events)
    return answer(200, f'{{"events":[{events}],"next_cursor":{compact(page.next_cursor)}}}')
