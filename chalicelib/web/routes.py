"""Register routes, and do what every call needs: authenticate, parse, respond, report errors."""

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

JSON_BODIES = {("application/json", "identity"), ("", "identity")}  # content type and encoding
# Messages of log lines for error responses, by status code; other status codes are not logged.
LOG_MESSAGES = {
    401: "key refused",
    403: "key refused",
    503: "unavailable",
}
# Handles an authenticated request.
View = Callable[["Call"], Response]


@dataclass(frozen=True)
class Call(Invocation):
    """The invocation of the API's function for an authenticated request.

    Its deadline is the time at which the response must be returned.
    """

    services: deps.Services
    request: Request
    # The API key or token of the caller.
    key: ApiKey
    # The parsed query parameters by name; a parameter that was not given is absent.
    query: Json
    # The ids in the path by name: `event_id` or `subscription_id`. They have a valid form.
    ids: Json

    def locate(self, path: str) -> str:
        """Return the value of a `Location` header, relative to the URL of the request.

        :param path: The location relative to the URL without a trailing slash; if the caller's URL
            has a trailing slash, `../` is added.
        """
        return f"../{path}" if self.request.context["path"].endswith("/") else path

    def read_subscription(self) -> Subscription:
        """Read the subscription that the path names.

        Raises ApiError 404 if there is none, or if the caller may not see it.
        """
        return require_found(self.find_subscription(self.ids["subscription_id"]))

    def find_subscription(self, subscription_id: str | None) -> Subscription | None:
        """Read a subscription.

        :param subscription_id: Any text; None: no subscription.
        :returns: None if there is none, or if the caller's token is for another tenant.
        """
        subscription = self.services.subscriptions.get(subscription_id)
        if subscription is None or self.key.tenant not in (None, subscription.tenant):
            return None
        return subscription

    def read_event(self) -> Event:
        """Read the event or copy that the path names.

        Raises EventNotFoundError if there is none, or if the caller may not see it.
        """
        event = self.services.store.get(self.ids["event_id"])
        if event is None or not self._may_read(event):
            raise EventNotFoundError
        return event

    def read_original(self) -> Event:
        """Read the event that the path names, to show its recipients.

        Raises EventNotFoundError if there is none, if it is a copy, or if the caller may not see
        its recipients. A token may see the recipients of its tenant's events, except for reports: a
        report is about a subscription, which may be the operator's.
        """
        event = self.services.store.get(self.ids["event_id"])
        if event is None or event.is_copy:
            raise EventNotFoundError
        if self.key.is_token and (event.tenant != self.key.tenant or event.is_report):
            raise EventNotFoundError
        return event

    def _may_read(self, event: Event) -> bool:
        """Return whether the caller may see an event or copy."""
        if not self.key.is_token:
            # Without the scope consume, a key sees only the events that it posted itself.
            return Scope.CONSUME in self.key.scopes or event.created_by == self.key.name
        # A token sees the copies for its tenant's subscriptions. The tenant of the event does not
        # decide: original events, and copies for the operator's subscriptions, have a tenant, too.
        return self.find_subscription(event.subscription_id) is not None

    def parse_body(self, members: Parsers, *required: str) -> Json:
        """Return the parsed members of the body that are not null; no body counts as `{}`.

        Raises ApiError 400, 413 or 415.

        :param members: The members that the body may have, each with its parser.
        :param required: Names of members that the body must have.
        """
        return without_nulls(parse_object(self.load_body(b"{}"), members, required))

    def load_body(self, default: bytes = b"") -> Any:
        """Return the JSON value of the body.

        :param default: JSON that is used if the request has no body; empty: a body is required.
        :raises ApiError: 400, 413 or 415.
        """
        return load_json(self.read_body(default))

    def read_body(self, default: bytes) -> bytes:
        """Return the bytes of the body, or `default` if the request has no body.

        Raises ApiError 415 if the headers name another content type than JSON, or a compression.
        """
        body: Any = self.request.raw_body  # bytes
        if not body.strip():  # `curl -d ''` sends the content type of a form
            return default
        headers = self.request.headers
        media_type = headers.get("content-type", "").split(";")[0]
        encoding = headers.get("content-encoding", "identity")
        if (media_type.strip().lower(), encoding.lower()) not in JSON_BODIES:
            detail = "The Content-Type must be application/json, without compression."
            raise ApiError(415, "unsupported_media_type", detail)
        return bytes(body)


def require_found(subscription: Subscription | None) -> Subscription:
    """Return a subscription; raise ApiError 404 for None: it was not found, or deleted since."""
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
    """Return a decorator that registers a view as the handler of a route.

    The view is called with a Call. Errors that it raises become problem documents.

    :param scopes: The caller's key needs one of them. With TOKEN, tokens may make the call, and the
        view must limit them to their tenant.
    :param parameters: The query parameters that the call may have, each with its parser.
    """

    def register(view: View) -> View:
        """Register a view as the handler of the route, and return it unchanged."""

        def handle(**ids: str) -> Response:
            """Return the response of the view to the current request, or a problem document with
            the error that the view or the authentication raises.

            :param ids: The ids in the path by name.
            """
            request: Any = app.current_request
            with telemetry.request_id(request.lambda_context.aws_request_id):
                try:
                    return view(_make_call(request, scopes, parameters, ids))
                except ApiError as error:
                    if error.status_code in LOG_MESSAGES:
                        _log_refusal(error, request)
                    return respond_problem(error)
                except Exception:
                    telemetry.logger.exception("request failed", extra={"path": request.path})
                    detail = "An internal error occurred; the log has the details."
                    return respond_problem(ApiError(500, "internal_error", detail))

        # No content types are listed: Chalice would respond 415 itself, even to `Application/JSON`.
        app.route(
            path,
            methods=[method],
            name=view.__name__,
            content_types=[],
        )(handle)
        return view

    return register


def _log_refusal(error: ApiError, request: Any) -> None:
    """Log an error response with one of the status codes of LOG_MESSAGES, as a warning."""
    extra = {
        "status_code": error.status_code,
        "path": request.path,
        "source_ip": request.context.get("identity", {}).get("sourceIp"),
        "error": str(error),
    }
    telemetry.logger.warning(LOG_MESSAGES[error.status_code], extra=extra)


RESPOND_SECONDS = 3  # reserved: the function has 30 s, and API Gateway ends a request after 29 s
ID_PATTERNS = {"event_id": EVENT_ID, "subscription_id": SUBSCRIPTION_ID}


def _make_call(
    request: Any,
    scopes: Sequence[str],
    parameters: Parsers,
    ids: Json,
) -> Call:
    """Authenticate a request, and parse its query parameters.

    :param request: Chalice's request.
    :param scopes: The caller's key needs one of them.
    :param parameters: The query parameters that the call may have, each with its parser.
    :param ids: The ids in the path by name.
    :raises ApiError: 401 or 403 if the key is refused, 400 for the query, 404 for a malformed id,
        503 if settings are unusable.
    """
    services = deps.get()
    authorization = request.headers.get("authorization", "")
    key = authenticate(authorization, services.settings, services.clock())
    if key.scopes.isdisjoint(scopes):
        detail = f"This key may not make this call. The call needs: {' or '.join(scopes)}."
        raise ApiError(403, "forbidden", detail)
    query = parse_query(given_query(request), parameters)
    for name, text in ids.items():
        if not ID_PATTERNS[name].fullmatch(text):
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
    """Return the list of texts of each query parameter of a request; the list has several texts if
    the parameter is repeated.
    """
    given: Any = request.query_params or {}
    return {name: given.getlist(name) for name in given}


def _not_found(id_name: str) -> ApiError:
    """Return the error 404 for an id in the path.

    :param id_name: `event_id` or `subscription_id`.
    """
    return ApiError(404, "not_found", f"There is no such {id_name.removesuffix('_id')}.")


def remaining_seconds(context: Any) -> float:
    """Return the seconds until Lambda ends the invocation; `context` is that of Lambda."""
    return float(context.get_remaining_time_in_millis()) / 1000


def respond_problem(error: ApiError) -> Response:
    """Return the response for an error, with a problem document as its body."""
    headers: Json = {"Content-Type": "application/problem+json", **error.headers}
    # Written in ASCII: a fault may repeat a name with half an emoji, which UTF-8 cannot hold.
    body = json.dumps(_problem_document(error), separators=(",", ":"))
    return Response(body, headers, error.status_code)


def _problem_document(error: ApiError) -> Json:
    """Return the problem document of an error (RFC 9457)."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(error.status_code).phrase,
        "status": error.status_code,
        "detail": str(error),
        "code": error.code,
        **error.members,
    }


def respond(body: str, status_code: int = 200, **headers: str) -> Response:
    """Return a response; `body` is JSON."""
    return Response(body, {"Content-Type": "application/json", **headers}, status_code)


def show_batch(posted: Sequence[Posted]) -> str:
    """Return the JSON of the response to a batch of events, with a result for each event.

    If no event was accepted, and an event could not be stored, raises the ApiError 503 of that
    event instead, so that clients repeat the call.

    :param posted: For each event of the batch the stored event as a Planned, or its ApiError.
    """
    errors = [result for result in posted if isinstance(result, ApiError)]
    unavailable = [error for error in errors if error.status_code == 503]
    if unavailable and len(errors) == len(posted):
        raise unavailable[0]
    if unavailable:
        # The alarm of the API's errors counts this metric, and responses with 503.
        extra = {"count": len(unavailable), "metrics": {"EventsNotStored": 1}}
        telemetry.logger.warning("events not stored", extra=extra)
    shown = map(_show_batch_result, posted, count())
    return join_object({"failed_count": len(errors)}, events=join_list(shown))


def _show_batch_result(posted: Posted, number: int) -> str:
    """Return the JSON of the result of an event of a batch: the event, or a problem document.

    :param posted: The stored event or the error. In an error with faults, the names of the fields
        are replaced by their paths in the batch.
    :param number: The index of the event in the batch, from 0.
    """
    if isinstance(posted, Planned):
        members = {"status": 202, "replayed": not posted.is_new}
        return join_object(members, event=posted.event.summary_json())
    for fault in posted.members.get("errors", ()):
        # A fault of the event as a whole has the field `body`.
        fault["field"] = f"events[{number}].{fault['field']}".removesuffix(".body")
    return dumps({"status": posted.status_code, "problem": _problem_document(posted)})


def respond_list(
    name: str, items: list[str], last: str | None, examined: int | None = None
) -> Response:
    """Return the response 200 with a page of a list and its `next_cursor`.

    :param name: The member that has the list: `events`.
    :param items: The JSON of each item.
    :param last: The sort key after which the next page begins; None: there is no next page.
    :param examined: The number of events that were examined to find the items; None: the response
        does not have this member.
    """
    members: Json = {} if examined is None else {"examined": examined}
    members["next_cursor"] = encode_cursor(last)
    return respond(join_object(members, **{name: join_list(items)}))


def respond_page(query: Query, call: Call) -> Response:
    """Return the response with the page of events of a query.

    Each event has its payload or its outcome if the query includes it. An event has its subject
    unless it is shown with the attributes of the index of statuses, which projects no subject.
    """
    page = read_page(call.services, query)
    outcome_members: Json = {}  # by event id
    if query.include == "outcome":
        services = call.services
        # The returned page ends earlier if its events have too many copies, and for a token it has
        # the events as the tenant may see them.
        page, outcomes = read_outcomes(page, services, services.subscriptions, call.key.tenant)
        outcome_members = {event_id: {"outcome": outcome} for event_id, outcome in outcomes.items()}
    # Otherwise the events may come from the index of statuses.
    has_subject = query.include or query.subject or query.subscription_id
    without = "" if has_subject else "subject"
    has_payload = query.include == "payload"
    events = [
        event.summary_json(
            outcome_members.get(event.event_id, {}), include_payload=has_payload, without=without
        )
        for event in page.events
    ]
    return respond_list("events", events, page.next_cursor)


def show_subscriptions(found: Sequence[Subscription], call: Call) -> list[str]:
    """Return the JSON of each subscription, with `deliveries` if the call's query has `include`."""
    if "include" not in call.query:
        return [subscription.to_json() for subscription in found]

    def show(subscription: Subscription) -> str:
        """Return the JSON of a subscription with its `deliveries`."""
        return subscription.to_json({"deliveries": read_deliveries(subscription, call.services)})

    return call.services.map(show, found)
