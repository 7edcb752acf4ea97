"""Routes, worker and schedules: the only file that knows Chalice. Each handler parses, calls and responds."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from chalice.app import Chalice, CloudWatchEvent, Rate, Request, Response, SQSEvent

if sys.pycache_prefix is None:
    sys.dont_write_bytecode = True  # `chalice deploy` imports this file, and would package the bytecode

from chalicelib import __version__
from chalicelib import deps as services
from chalicelib.core import posting, recovery
from chalicelib.core import sweep as schedules
from chalicelib.core import worker as batch
from chalicelib.core.event import Event, dumps
from chalicelib.customers import console
from chalicelib.customers.subscriptions import SUBSCRIPTION_ID, Subscription, parse_subscription
from chalicelib.deps import Invocation, Services
from chalicelib.infra import telemetry
from chalicelib.infra.errors import ApiError, EventNotFoundError, FieldFault, InvalidRequestError, SettingsError
from chalicelib.infra.queue import Message
from chalicelib.infra.times import rfc3339
from chalicelib.pull import inbox, listing
from chalicelib.settings import read as read_settings
from chalicelib.web.auth import ApiKey, Scope, authenticate, authorize, make_token, parse_token_request, visible_tenant
from chalicelib.web.queries import INBOX_PARAMETERS, PARAMETERS, encode_cursor
from chalicelib.web.validation import parse_acknowledgement, parse_lease_request, parse_new_event, parse_query, valid_id

deploy_settings, faults = read_settings(os.environ)
if faults and "AWS_LAMBDA_FUNCTION_NAME" not in os.environ:  # a deployed function answers with 503
    sys.stderr.write("; ".join(faults) + "\n")
    os._exit(1)  # an exception in the thread that `chalice local` imports this file in would not end the process
STAGE: str = deploy_settings["stage"]
app = Chalice(app_name=f"triggers-api-{STAGE}", configure_logs=False)  # the name of the REST API

OPENAPI = Path(__file__).parent / "chalicelib" / "openapi.json"
NO_SUBSCRIPTION = (404, "not_found", "There is no such subscription.")
RESPOND_SECONDS = 3  # reserved: the function has 30 s, and API Gateway ends a request after 29 s


@dataclass(frozen=True)
class Call(Invocation):
    """The invocation for an authenticated request; it ends when the response must be on its way.

    `query` has the values of the query parameters that were given.
    """

    request: Request
    key: ApiKey
    query: dict[str, Any]

    def find_subscription(self, subscription_id: str) -> Subscription | None:
        """Return a subscription, or None if there is none or it is not of the token's tenant.

        Raises ApiError 404 if the id is malformed.
        """
        if not SUBSCRIPTION_ID.fullmatch(subscription_id):
            raise ApiError(*NO_SUBSCRIPTION)
        return self.services.subscriptions.get(subscription_id, self.key.tenant)

    def find_event(self, event_id: str) -> Event:
        """Return an event; raise EventNotFoundError if it is malformed, there is none, or the key may not see it."""
        event = self.services.store.get(valid_id(event_id))
        if event is None or not self.key.may_read(event, self.find_subscription):
            raise EventNotFoundError
        return event

    def location(self, path: str) -> str:
        """Return `path` relative to this URL, which may end with a slash, so that it resolves behind a stage."""
        return "../" + path if self.request.context.get("path", "").endswith("/") else path

    def json_body(self) -> bytes:
        """Return the body; raise ApiError 415 if it is not plain JSON."""
        headers = self.request.headers
        content_type: str = headers.get("content-type", "")
        is_json = content_type.split(";")[0].strip().lower() in ("", "application/json")
        if not is_json or headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "unsupported_media_type", "Content-Type must be application/json, without compression.")
        body: Any = self.request.raw_body  # bytes
        return bytes(body)


View = Callable[..., Response]


def route(
    method: str, path: str, *scopes: Scope, takes_tokens: bool = False, **parameters: Callable[[str], Any]
) -> Callable[[View], View]:
    """Register a view; errors become problem documents.

    With `scopes`, the API key needs one of them, the query may have `parameters`, each with its parser, and no others,
    and the view takes a Call and the path's parameters. A view that takes tokens shows them nothing but what is their
    tenant's.
    """

    def register(view: View) -> View:
        def handle(**path_parameters: str) -> Response:
            request: Any = app.current_request
            with telemetry.request_id(request.lambda_context.aws_request_id):
                try:
                    if not scopes:
                        return view()
                    current = services.get()
                    settings, authorization = current.settings, request.headers.get("authorization")
                    key = authenticate(authorization, settings.api_keys, settings.signing_secrets, current.clock())
                    authorize(key, scopes, takes_tokens=takes_tokens)
                    given: Any = request.query_params or {}
                    query = parse_query({name: given.getlist(name) for name in given}, parameters)
                    deadline = current.clock() + remaining_seconds(request.lambda_context) - RESPOND_SECONDS
                    return view(Call(current, deadline, request, key, query), **path_parameters)
                except ApiError as error:
                    if error.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                        source_ip = request.context.get("identity", {}).get("sourceIp")
                        services.get().log_refusal(status_code=error.status_code, path=path, source_ip=source_ip)
                    return problem(error)
                except SettingsError as error:
                    telemetry.logger.critical("settings unusable", extra={"error": str(error)})
                    return problem(ApiError(503, "unavailable", str(error), retry_after_seconds=5))
                except Exception:
                    telemetry.logger.exception("request failed", extra={"path": path})
                    return problem(ApiError(500, "internal_error", "Internal error; the log has the details."))

        # Without content types: Chalice would answer 415 itself, also to `Application/JSON`.
        app.route(path, methods=[method], name=view.__name__, content_types=[])(handle)
        return view

    return register


def problem(error: ApiError) -> Response:
    """Return a problem document (RFC 9457)."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(error.status_code).phrase,
        "status": error.status_code,
        "detail": str(error),
        "code": error.code,
    }
    if error.errors:
        document["errors"] = [vars(fault) for fault in error.errors]
    headers: dict[str, str | list[str]] = {"Content-Type": "application/problem+json"}
    if error.status_code == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    return Response(dumps(document), headers, error.status_code)


def respond(status_code: int, body: str, **headers: str) -> Response:
    return Response(body, {"Content-Type": "application/json", **headers}, status_code)


@route("GET", "/health")
def get_health() -> Response:
    return respond(200, dumps({"status": "ok", "version": __version__, "stage": STAGE}))


@route("GET", "/me", *Scope, takes_tokens=True)
def get_me(call: Call) -> Response:
    key = call.key
    me = {"name": key.tenant or key.name, "scopes": sorted(key.scopes), "stage": STAGE}
    return respond(200, dumps({**me, "tenant": key.tenant, "expires_at": key.expires_at}))


@route("POST", "/tokens", Scope.CONSUME)
def create_token(call: Call) -> Response:
    tenant, seconds = parse_token_request(call.json_body())
    expires_at = int(call.services.clock()) + seconds
    token = make_token(call.key, tenant, expires_at, call.services.settings.signing_secrets)
    return respond(201, dumps({"token": token, "tenant": tenant, "expires_at": rfc3339(expires_at)}))


@route("GET", "/openapi.json")
def get_openapi() -> Response:
    return respond(200, openapi())


@route("GET", "/")
def get_console() -> Response:
    html, headers = console.page()
    return Response(html, {**headers})


@route("POST", "/events", Scope.PRODUCE)
def post_event(call: Call) -> Response:
    respond_async = prefers_async(call.request.headers.get("prefer", ""))
    new_event = parse_new_event(call.json_body(), call.request.headers.get("idempotency-key"))
    event, is_repeated = posting.post(new_event, call, created_by=call.key.name, respond_async=respond_async)
    extra = {"Location": call.location(f"events/{event.event_id}")}
    if is_repeated:
        extra["Idempotency-Replayed"] = "true"
    if respond_async:
        extra["Preference-Applied"] = "respond-async"
    return respond(202, event.to_json(), **extra)


@route("GET", "/events/{event_id}", Scope.PRODUCE, Scope.CONSUME, takes_tokens=True)
def get_event(call: Call, event_id: str) -> Response:
    event = call.find_event(event_id)
    return respond(200, event.to_full_json(include_responses=call.key.sees_responses))


@route("GET", "/events", Scope.CONSUME, takes_tokens=True, **PARAMETERS)
def list_events(call: Call) -> Response:
    query = replace(listing.EVENTS, **call.query)
    if call.key.tenant is not None:
        visible_tenant(call.key, query.tenant)
        if not (query.source is None and query.subscription_id and call.find_subscription(query.subscription_id)):
            raise ApiError(403, "forbidden", "A token lists the copies of one of its subscriptions: subscription_id.")
    return respond_page(query, call.services)


@route("GET", "/inbox", Scope.CONSUME, takes_tokens=False, **INBOX_PARAMETERS)
def list_inbox(call: Call) -> Response:
    return respond_page(replace(listing.INBOX, **call.query), call.services)


@route("POST", "/inbox/lease", Scope.CONSUME)
def lease_events(call: Call) -> Response:
    events = inbox.lease(call.services, **parse_lease_request(call.json_body()))
    return respond(200, f'{{"events":[{",".join(event.to_lease_json() for event in events)}]}}')


@route("POST", "/inbox/acknowledge", Scope.CONSUME)
def acknowledge_events(call: Call) -> Response:
    return respond(200, dumps(inbox.acknowledge_many(*parse_acknowledgement(call.json_body()), call.services)))


@route("DELETE", "/events/{event_id}", Scope.ERASE)
def erase_event(call: Call, event_id: str) -> Response:
    recovery.erase(valid_id(event_id), call.services)
    return Response("", {}, 204)


@route("POST", "/events/{event_id}/acknowledge", Scope.CONSUME, lease_id=str)
def acknowledge_event(call: Call, event_id: str) -> Response:
    inbox.acknowledge(event_id, call.services, call.query.get("lease_id"))
    return Response("", {}, 204)


@route("POST", "/events/{event_id}/release", Scope.CONSUME, lease_id=str)
def release_event(call: Call, event_id: str) -> Response:
    if not call.query.get("lease_id"):
        raise InvalidRequestError(FieldFault("lease_id", "is required"))
    inbox.release(valid_id(event_id), call.query["lease_id"], call.services)
    return Response("", {}, 204)


@route("POST", "/events/{event_id}/replay", Scope.CONSUME, takes_tokens=True)
def replay_event(call: Call, event_id: str) -> Response:
    event = recovery.replay(call.find_event(event_id), call)
    return respond(202, event.to_json(), Location=call.location(f"../{event_id}"))


@route("POST", "/subscriptions", Scope.CONSUME, takes_tokens=True)
def create_subscription(call: Call) -> Response:
    settings = call.services.settings
    members = parse_subscription(call.json_body(), settings, names_hosts=call.key.tenant is None)
    members["tenant"] = visible_tenant(call.key, members["tenant"])
    subscription, is_new = call.services.subscriptions.create(call.key.name, **members)
    location = call.location(f"subscriptions/{subscription.subscription_id}")
    body = subscription.to_json_with_secret(settings.signing_secrets, missed_since=subscription.missed_since)
    return respond(201 if is_new else 200, body, Location=location)


@route("GET", "/subscriptions", Scope.CONSUME, takes_tokens=True, tenant=PARAMETERS["tenant"])
def list_subscriptions(call: Call) -> Response:
    found = call.services.subscriptions.of_tenant(visible_tenant(call.key, call.query.get("tenant")))
    return respond(200, f'{{"subscriptions":[{",".join(subscription.to_json() for subscription in found)}]}}')


@route("GET", "/subscriptions/{subscription_id}", Scope.CONSUME, takes_tokens=True)
def get_subscription(call: Call, subscription_id: str) -> Response:
    return respond(200, require(call.find_subscription(subscription_id)).to_json())


@route("POST", "/subscriptions/{subscription_id}/enable", Scope.CONSUME, takes_tokens=True)
def enable_subscription(call: Call, subscription_id: str) -> Response:
    seen = require(call.find_subscription(subscription_id))
    subscription = require(call.services.subscriptions.enable(seen))
    return respond(200, subscription.to_json(missed_since=subscription.missed_since))


@route("POST", "/subscriptions/{subscription_id}/test", Scope.CONSUME, takes_tokens=True)
def push_test_event(call: Call, subscription_id: str) -> Response:
    subscription = require(call.find_subscription(subscription_id))
    return respond(200, dumps(vars(posting.push_test_event(subscription, call))))


@route("DELETE", "/subscriptions/{subscription_id}", Scope.CONSUME, takes_tokens=True)
def delete_subscription(call: Call, subscription_id: str) -> Response:
    if call.find_subscription(subscription_id):
        call.services.subscriptions.delete(subscription_id)
    return Response("", {}, 204)


@app.on_sqs_message(
    queue=f"triggers-api-{STAGE}-inbox-queue",
    batch_size=10,
    maximum_batching_window_in_seconds=deploy_settings["worker_batch_window_seconds"],
    maximum_concurrency=deploy_settings["worker_max_concurrency"],
)
def worker(event: SQSEvent) -> None:
    """Process a batch; raise if some messages failed, which SQS returns after the visibility timeout."""
    run(event, partial(batch.process, [Message.from_record(record.to_dict()) for record in event]))


@app.schedule(Rate(1, unit=Rate.MINUTES))
def sweep(event: CloudWatchEvent) -> None:
    run(event, schedules.sweep)


@app.schedule(Rate(5, unit=Rate.MINUTES))
def check_dlq(event: CloudWatchEvent) -> None:
    """Publish depths and ages; renaming the function would leave the deployed one behind."""
    run(event, lambda current, _: schedules.publish_depths(current))


def run(event: SQSEvent | CloudWatchEvent, work: Callable[[Services, float], None]) -> None:
    """Do the work of a function, which may take the remaining seconds."""
    context: Any = event.context
    with telemetry.request_id(context.aws_request_id):
        work(services.get(), remaining_seconds(context))


@cache
def openapi() -> str:
    return dumps(json.loads(OPENAPI.read_text(encoding="utf-8")))


def remaining_seconds(context: Any) -> float:
    return float(context.get_remaining_time_in_millis()) / 1000


def require(subscription: Subscription | None) -> Subscription:
    """Return a subscription; raise ApiError 404 if it was not found."""
    if subscription is None:
        raise ApiError(*NO_SUBSCRIPTION)
    return subscription


def prefers_async(prefer: str) -> bool:
    """Return whether `Prefer` (RFC 7240) has `respond-async`."""
    return any(part.split(";")[0].strip().lower() == "respond-async" for part in prefer.split(","))


def respond_page(query: listing.Query, services: Services) -> Response:
    page = listing.read_page(services, query)
    events = ",".join(event.to_json(include_payload=query.include is not None) for event in page.events)
    next_cursor = page.next_cursor and encode_cursor(page.next_cursor)
    return respond(200, f'{{"events":[{events}],"next_cursor":{dumps(next_cursor)}}}')


if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    services.initialize()
