"""Routes: what every call has in common, from the API key to the problem document."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import count
from typing import Any

from chalice.app import Chalice, Request, Response

from chalicelib import deps
from chalicelib.core.event import EVENT_ID, Event
from chalicelib.core.invocation import Invocation
from chalicelib.core.posting import Planned, Posted
from chalicelib.events.listing import Query, read_page
from chalicelib.infra import telemetry
from chalicelib.infra.errors import ApiError, EventNotFoundError
from chalicelib.infra.parsing import Json, Parser, Parsers, dumps, join_list, join_object
from chalicelib.settings import ApiKey, Scope
from chalicelib.subscriptions.deliveries import read_deliveries
from chalicelib.subscriptions.recipients import read_outcomes
from chalicelib.subscriptions.subscription import SUBSCRIPTION_ID, Subscription
from chalicelib.web.auth import authenticate
from chalicelib.web.validation import (
    encode_cursor,
    load_json,
    parse_object,
    parse_query,
    without_nulls,
)

RESPOND_SECONDS = 3  # reserved: the function has 30 s, and API Gateway ends a request after 29 s
JSON_BODIES = {("application/json", "identity"), ("", "identity")}  # content type and encoding
IDS = {"event_id": EVENT_ID, "subscription_id": SUBSCRIPTION_ID}
LOGGED = {
    401: "key refused",
    403: "key refused",
    503: "unavailable",
}
View = Callable[["Call"], Response]


@dataclass(frozen=True)
class Call(Invocation):
    """The invocation for an authenticated request; it ends when the response must be on its way.

    `query` has the values of the query parameters that were given, `ids` those of the path.
    """

    services: deps.Services
    request: Request
    key: ApiKey
    query: Json
    ids: Json

    def locate(self, path: str) -> str:
        """Return the `Location` of what is at `path`, relative to the URL of the request.

        :param path: Relative to the URL without a slash at its end, which a caller may add.
        """
        return f"../{path}" if self.request.context["path"].endswith("/") else path

    def subscription(self) -> Subscription:
        """Return the subscription of the path; raise ApiError 404 as `find_subscription` has it."""
        return require(self.find_subscription(self.ids["subscription_id"]))

    def find_subscription(self, subscription_id: str | None) -> Subscription | None:
        """Return a subscription, or None if there is none or it is not of the token's tenant."""
        subscription = self.services.subscriptions.get(subscription_id)
        if subscription is None or self.key.tenant not in (None, subscription.tenant):
            return None
        return subscription

    def event(self) -> Event:
        """Return the event of the path.

        Raises EventNotFoundError if there is none, or the key may not see it.
        """
        event = self.services.store.get(self.ids["event_id"])
        if event is None or not self._may_read(event):
            raise EventNotFoundError
        return event

    def original(self) -> Event:
        """Return the event of the path, no copy, whose recipients the key may see.

        Raises EventNotFoundError if there is none. A token may see those of its tenant's events,
        but not of reports: a report exists because of a subscription, which may be the operator's.
        """
        event = self.services.store.get(self.ids["event_id"])
        if event is None or event.is_copy:
            raise EventNotFoundError
        if self.key.is_token and (event.tenant != self.key.tenant or event.is_report):
            raise EventNotFoundError
        return event

    def _may_read(self, event: Event) -> bool:
        """Return whether the key may see an event."""
        if not self.key.is_token:
            # Without the scope consume, a key sees only what it posted itself.
            return Scope.CONSUME in self.key.scopes or event.created_by == self.key.name
        # A token sees the copies for its tenant's subscriptions, by these: the tenant's events, and
        # their copies for subscriptions without a tenant, name the tenant, too.
        return self.find_subscription(event.subscription_id) is not None

    def body(self, members: Parsers, *required: str) -> Json:
        """Return the members of the body but those that are null; raise ApiError 400, 413, 415."""
        return without_nulls(parse_object(self.json(b"{}"), members, required))

    def json(self, empty: bytes = b"") -> Any:
        """Return the JSON value of the body, or that of `empty` if there is none.

        Raises what `text` and `load_json` raise.
        """
        return load_json(self.text(empty))

    def text(self, empty: bytes) -> bytes:
        """Return the body, or `empty` if there is none; raise ApiError 415 if it is not plain
        JSON.
        """
        body: Any = self.request.raw_body  # bytes
        if not body.strip():  # `curl -d ''` sends the content type of a form
            return empty
        headers = self.request.headers
        media_type = headers.get("content-type", "").split(";")[0]
        encoding = headers.get("content-encoding", "identity")
        if (media_type.strip().lower(), encoding.lower()) not in JSON_BODIES:
            detail = "Content-Type must be application/json, without compression."
            raise ApiError(415, "unsupported_media_type", detail)
        return bytes(body)


def require(subscription: Subscription | None) -> Subscription:
    """Return a subscription; raise ApiError 404 if it was not found."""
    if subscription is None:
        raise _not_found("subscription_id")
    return subscription


def route(
    app: Chalice,
    method: str,
    path: str,
    *scopes: str,
    **parameters: Parser,
) -> Callable[[View], View]:
    """Register a view, which takes a Call; errors become problem documents.

    The API key needs one of `scopes`, of which TOKEN stands for tokens: the view shows them nothing
    but what is their tenant's. The query may have `parameters`, and no others.
    """

    def register(view: View) -> View:
        def handle(**ids: str) -> Response:
            request: Any = app.current_request
            with telemetry.request_id(request.lambda_context.aws_request_id):
                try:
                    return view(_make_call(request, scopes, parameters, ids))
                except ApiError as error:
                    if error.status_code in LOGGED:
                        _log(error, request)
                    return problem(error)
                except Exception:
                    telemetry.logger.exception("request failed", extra={"path": request.path})
                    detail = "Internal error; the log has the details."
                    return problem(ApiError(500, "internal_error", detail))

        # Without content types: Chalice would answer 415 itself, also to `Application/JSON`.
        app.route(
            path,
            methods=[method],
            name=view.__name__,
            content_types=[],
        )(handle)
        return view

    return register


def _log(error: ApiError, request: Any) -> None:
    extra = {
        "status_code": error.status_code,
        "path": request.path,
        "source_ip": request.context.get("identity", {}).get("sourceIp"),
        "error": str(error),
    }
    telemetry.logger.warning(LOGGED[error.status_code], extra=extra)


def _make_call(
    request: Any,
    scopes: Sequence[str],
    parameters: Parsers,
    ids: Json,
) -> Call:
    """Return the call of a request.

    Raises ApiError 401 or 403, 400 for its query, 404 for a malformed id.
    """
    services = deps.get()
    authorization = request.headers.get("authorization", "")
    key = authenticate(authorization, services.settings, services.clock())
    if key.scopes.isdisjoint(scopes):
        detail = f"This key may not make this call, which needs {' or '.join(scopes)}."
        raise ApiError(403, "forbidden", detail)
    query = parse_query(given_query(request), parameters)
    for name, text in ids.items():
        if not IDS[name].fullmatch(text):
            raise _not_found(name)
    deadline = services.clock() + remaining_seconds(request.lambda_context) - RESPOND_SECONDS
    return Call(
        services,
        deadline,
        request,
        key,
        query,
        ids,
    )


def given_query(request: Any) -> Json:
    """Return the texts of each query parameter of a request; a repeated one has several."""
    given: Any = request.query_params or {}
    return {name: given.getlist(name) for name in given}


def _not_found(id_name: str) -> ApiError:
    return ApiError(404, "not_found", f"There is no such {id_name.removesuffix('_id')}.")


def remaining_seconds(context: Any) -> float:
    return float(context.get_remaining_time_in_millis()) / 1000


def problem(error: ApiError) -> Response:
    headers: Json = {"Content-Type": "application/problem+json", **error.headers}
    # In ASCII: a name that a fault repeats may have half an emoji, which UTF-8 cannot hold.
    return Response(json.dumps(_document(error), separators=(",", ":")), headers, error.status_code)


def _document(error: ApiError) -> Json:
    """Return a problem document (RFC 9457)."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(error.status_code).phrase,
        "status": error.status_code,
        "detail": str(error),
        "code": error.code,
        **error.members,
    }


def respond(body: str, status_code: int = 200, **headers: str) -> Response:
    return Response(body, {"Content-Type": "application/json", **headers}, status_code)


def show_batch(posted: Sequence[Posted]) -> str:
    """Return what became of the events of a batch.

    If none was accepted, and one not stored, raises that error: clients repeat the call. The alarm
    of the API's errors counts that, and the metric of a response with events that were not stored.
    """
    errors = [each for each in posted if isinstance(each, ApiError)]
    unavailable = [error for error in errors if error.status_code == 503]
    if unavailable:
        if len(errors) == len(posted):
            raise unavailable[0]
        extra = {"count": len(unavailable), "metrics": {"EventsNotStored": 1}}
        telemetry.logger.warning("events not stored", extra=extra)
    shown = map(_show_posted, posted, count())
    return join_object({"failed_count": len(errors)}, events=join_list(shown))


def _show_posted(posted: Posted, number: int) -> str:
    """Return what became of an event of a batch; faults are told by their paths in that."""
    if isinstance(posted, Planned):
        members = {"status": 202, "replayed": not posted.is_new}
        return join_object(members, event=posted.event.summary_json())
    for fault in posted.members.get("errors", ()):
        fault["field"] = f"events[{number}].{fault['field']}".removesuffix(".body")
    return dumps({"status": posted.status_code, "problem": _document(posted)})


def respond_list(name: str, members: list[str], last: str | None, **more: int) -> Response:
    """Return a page of JSON texts, and `more` members.

    The next page, if there is one, begins after the sort key `last`.
    """
    rest = {**more, "next_cursor": encode_cursor(last)}
    return respond(join_object(rest, **{name: join_list(members)}))


def respond_page(query: Query, call: Call) -> Response:
    """Return a page of events, with what became of each if the query includes that."""
    page = read_page(call.services, query)
    more: Json = {}
    if query.include == "outcome":
        services = call.services
        page, outcomes = read_outcomes(page, services, services.subscriptions, call.key.tenant)
        more = {event_id: {"outcome": outcome} for event_id, outcome in outcomes.items()}
    with_subject = query.include or query.subject or query.subscription_id
    without = "" if with_subject else "subject"
    has_payload = query.include == "payload"
    events = [
        event.summary_json(
            more.get(event.event_id, {}), include_payload=has_payload, without=without
        )
        for event in page.events
    ]
    return respond_list("events", events, page.next_cursor)


def show_subscriptions(found: Sequence[Subscription], call: Call) -> list[str]:
    """Return subscriptions as callers see them, with `deliveries` if the query includes these."""
    if "include" not in call.query:
        return [subscription.to_json() for subscription in found]

    def show(subscription: Subscription) -> str:
        return subscription.to_json({"deliveries": read_deliveries(subscription, call.services)})

    return call.services.map(show, found)
