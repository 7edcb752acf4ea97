"""The functions of the app: the routes of the API, the workers of the queues, and the schedules.

Each handler parses its input, calls a module of `chalicelib` and responds.
"""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from chalice.app import Chalice, CloudWatchEvent, Rate, Response, SQSEvent

if sys.pycache_prefix is None:
    # `chalice deploy` imports this file, and would package the bytecode
    sys.dont_write_bytecode = True

from chalicelib import __version__, console, deps
from chalicelib import settings as environment
from chalicelib.core import posting
from chalicelib.core.store import SWEEP_PERIOD_SECONDS, UNSETTLED
from chalicelib.deps import Services
from chalicelib.events import erasure, inbox, listing, replay
from chalicelib.events.listing import Query
from chalicelib.infra import telemetry
from chalicelib.infra.errors import (
    ApiError,
    FieldFault,
    InvalidRequestError,
)
from chalicelib.infra.parsing import Json, dumps, join_list, join_object
from chalicelib.infra.queue import Message
from chalicelib.infra.times import rfc3339
from chalicelib.operations import batch, schedules
from chalicelib.settings import Scope
from chalicelib.subscriptions import recipients
from chalicelib.subscriptions.catch_up import catch_up
from chalicelib.subscriptions.outcomes import judge, miss_members
from chalicelib.subscriptions.subscription import Description, Edit, Subscription
from chalicelib.subscriptions.subscriptions import find_filter_mismatch
from chalicelib.web import routes, validation
from chalicelib.web.auth import TOKEN, make_token, visible_tenant
from chalicelib.web.routes import (
    Call,
    remaining_seconds,
    require_found,
    respond,
    respond_list,
    respond_page,
    show_batch,
    show_subscriptions,
)
from chalicelib.web.validation import (
    encode_cursor,
    parse_batch,
    parse_batch_event,
    parse_new_event,
)

deploy_settings, faults = environment.parse(os.environ)
STAGE = deploy_settings["stage"]
app = Chalice(app_name=f"triggers-api-{STAGE}", configure_logs=False)  # the name of the REST API
route = partial(routes.route, app)
# The scopes that may use subscriptions: of operators' keys, and of customers' tokens.
CUSTOMERS = (Scope.CONSUME, TOKEN)
# Registers a route that needs no key. No content types are listed: Chalice would respond 415 to
# others.
public = partial(app.route, content_types=[])


@public("/health")
def get_health() -> Response:
    """Return the version and the stage, without a call to AWS."""
    return respond(dumps({"status": "ok", "version": __version__, "stage": STAGE}))


@public("/health", methods=["HEAD"])
def head_health() -> Response:
    """Respond without a body, for monitors that send HEAD."""
    return Response("", {})


@route("GET", "/me", *Scope, TOKEN, include=validation.INCLUDE_CATALOGUE)
def get_me(call: Call) -> Response:
    """Return the name and the scopes of the caller's key, and the event types that are offered.

    With the scope consume, also the webhook's host and the suspended tenants; with the query
    parameter `include`, also the catalogue of event types.
    """
    key = call.key
    settings = call.services.settings
    offered = settings.offered_types or None
    me: Json = {
        "name": key.tenant or key.name,
        "scopes": sorted(key.scopes - {TOKEN}),
        "stage": STAGE,
        "tenant": key.tenant,
        "expires_at": key.expires_at,
        "event_types": list(offered) if offered else None,
    }
    if Scope.CONSUME in key.scopes:
        url = settings.webhook_url
        me["webhook"] = {"host": urlsplit(url).hostname} if url else None
        me["suspended_tenants"] = settings.suspended_tenants
    if "include" in call.query:
        me["catalogue"] = offered
    return respond(dumps(me))


@route("POST", "/filters/test", *CUSTOMERS)
def try_filter(call: Call) -> Response:
    """Return whether a payload matches a filter and, if not, the member that does not match."""
    members = call.parse_body(validation.FILTER_MEMBERS, "filter", "payload")
    mismatch = find_filter_mismatch(members["filter"], dumps(members["payload"]))
    answer = {"matches": mismatch is None, "member": mismatch.member if mismatch else None}
    return respond(dumps(answer))


@route("POST", "/tokens", Scope.CONSUME)
def create_token(call: Call) -> Response:
    """Return a new token for a tenant, which expires after the `expires_in_seconds` of the body, by
    default after an hour.
    """
    members = call.parse_body(validation.TOKEN_MEMBERS, "tenant")
    tenant = members["tenant"]
    expires_at = int(call.services.clock()) + members.get("expires_in_seconds", 3600)
    token = {
        "token": make_token(call.key, tenant, expires_at, call.services.settings),
        "tenant": tenant,
        "expires_at": rfc3339(expires_at),
    }
    return respond(dumps(token), 201)


@public("/openapi.json")
def get_openapi() -> Response:
    """Return the OpenAPI description of the API."""
    path = Path(__file__).parent / "chalicelib" / "openapi.json"
    return respond(path.read_text(encoding="utf-8"))


@public("/listen.py")
def get_listener() -> Response:
    """Return the program that customers run to receive deliveries on their own machine. The request
    needs no key, and may have no query parameters.
    """
    try:
        validation.parse_query(routes.given_query(app.current_request), {})
    except InvalidRequestError as error:
        return routes.respond_problem(error)
    return Response(*console.listener())


@public("/")
def get_console() -> Response:
    """Return the HTML page of the console."""
    return Response(*console.page())


@route("POST", "/events", Scope.PRODUCE)
def post_event(call: Call) -> Response:
    """Store an event, and push it or queue it."""
    key = call.request.headers.get("idempotency-key")
    parse = partial(parse_new_event, idempotency_key=key)
    headers = applied_preference(call)
    is_async = bool(headers)  # the caller prefers `respond-async`: nothing is pushed meanwhile
    documents = [call.load_body()]
    [posted] = posting.post(documents, parse, call, call.key.name, respond_async=is_async)
    if isinstance(posted, ApiError):
        raise posted
    event = posted.event
    if not posted.is_new:
        headers["Idempotency-Replayed"] = "true"
    return respond(
        event.summary_json(), 202, Location=call.locate(f"events/{event.event_id}"), **headers
    )


@route("POST", "/events/batch", Scope.PRODUCE)
def post_events(call: Call) -> Response:
    """Store the events of a batch, and push or queue them; return a result for each event."""
    if "idempotency-key" in call.request.headers:
        raise InvalidRequestError(FieldFault("Idempotency-Key", "must not be sent with a batch"))
    events = parse_batch(call.read_body(b"{}"))
    headers = applied_preference(call)
    is_async = bool(headers)  # the caller prefers `respond-async`: nothing is pushed meanwhile
    posted = posting.post(events, parse_batch_event, call, call.key.name, respond_async=is_async)
    return respond(show_batch(posted), 200, **headers)


@route("GET", "/events/{event_id}", Scope.PRODUCE, *CUSTOMERS)
def get_event(call: Call) -> Response:
    """Return an event with its attempts.

    A key with the scope produce alone sees neither the responses of receivers nor the pushed body.
    """
    # CUSTOMERS are the scopes consume and token.
    sees_responses = not call.key.scopes.isdisjoint(CUSTOMERS)
    event = call.read_event()
    push_body = call.services.targets.push_body(event) if sees_responses else None
    return respond(event.full_json({"push_body": push_body}, include_responses=sees_responses))


@route("GET", "/events/{event_id}/recipients", *CUSTOMERS)
def list_recipients(call: Call) -> Response:
    """Return the outcome of an event, and its recipients: the subscriptions that got a copy of it,
    or could have got one. A token sees only the recipients of its tenant.
    """
    tenant = call.key.tenant  # None: the caller has an API key, and sees all recipients
    subscriptions = call.services.subscriptions
    original = call.read_original()
    [event] = recipients.as_tenant_sees_them([original], tenant, subscriptions)
    recipients_by_event = recipients.read_recipients([event], call.services, subscriptions, tenant)
    of_event = recipients_by_event[event.event_id]
    outcome = judge(event, of_event)
    shown = [recipients.recipient_json(recipient) for recipient in of_event]
    return respond(join_object({"outcome": outcome}, recipients=join_list(shown)))


@route("GET", "/events", *CUSTOMERS, **validation.PARAMETERS)
def list_events(call: Call) -> Response:
    """Return a page of events and copies; with a token, only of events that it may see.

    A token may list the events of its tenant, if it asks for their outcomes by `include=outcome`,
    and otherwise only the copies for one of its tenant's subscriptions.
    """
    query = replace(listing.EVENTS, **call.query)
    if query.status == UNSETTLED and not query.subscription_id:
        fault = FieldFault("status", "must come with subscription_id if it is undelivered")
        raise InvalidRequestError(fault)
    if call.key.is_token and query.include == "outcome":
        query = limit_to_tenant(query, call)
    elif call.key.is_token:
        require_own_subscription(query, call)
    return respond_page(query, call)


@route("GET", "/inbox", Scope.CONSUME, **validation.INBOX_PARAMETERS)
def list_inbox(call: Call) -> Response:
    """Return a page of the pending and failed events that nobody has claimed."""
    return respond_page(replace(listing.INBOX, **call.query), call)


@route("POST", "/inbox/lease", Scope.CONSUME)
def lease_events(call: Call) -> Response:
    """Claim pending and failed events for a consumer, and return them."""
    events = inbox.lease(call.services, **call.parse_body(validation.LEASE_MEMBERS))
    return respond(join_object({}, events=join_list(event.leased_json() for event in events)))


@route("POST", "/inbox/acknowledge", Scope.CONSUME)
def acknowledge_events(call: Call) -> Response:
    """Record that a consumer has processed events of a lease; return which the lease held."""
    members = call.parse_body(validation.ACKNOWLEDGEMENT_MEMBERS, "lease_id", "event_ids")
    return respond(dumps(inbox.acknowledge_many(call.services, **members)))


@route("DELETE", "/events/{event_id}", Scope.ERASE)
def erase_event(call: Call) -> Response:
    """Erase an event and its copies; succeed even if there is no such event."""
    erasure.erase(call.ids["event_id"], call.services)
    return Response("", {}, 204)


@route("POST", "/events/{event_id}/acknowledge", Scope.CONSUME, lease_id=str)
def acknowledge_event(call: Call) -> Response:
    """Record that a consumer has processed an event, under a lease if the query names one."""
    inbox.acknowledge(call.ids["event_id"], call.services, call.query.get("lease_id"))
    return Response("", {}, 204)


@route("POST", "/events/{event_id}/release", Scope.CONSUME, lease_id=str)
def release_event(call: Call) -> Response:
    """End a lease on an event before it expires."""
    lease_id = call.query.get("lease_id")
    if not lease_id:
        raise InvalidRequestError(FieldFault("lease_id", "is required"))
    inbox.release(call.ids["event_id"], lease_id, call.services)
    return Response("", {}, 204)


@route("POST", "/events/{event_id}/replay", *CUSTOMERS)
def replay_event(call: Call) -> Response:
    """Make an event or copy pending again, and queue it for a push."""
    event = replay.replay(call.read_event(), call, is_bulk=call.key.is_token)
    return respond(event.summary_json(), 202, Location=call.locate(f"../{event.event_id}"))


@route("POST", "/subscriptions", *CUSTOMERS)
def create_subscription(call: Call) -> Response:
    """Store a subscription; return it with its secret, or the same subscription if it exists.

    If the host of the target URL is not allowed, the error message names the allowed hosts, but not
    for a token.
    """
    members = validation.parse_new_subscription(
        call.load_body(),
        call.services.settings.subscription_hosts,
        names_hosts=not call.key.is_token,
    )
    target_url = members.pop("target_url")
    tenant = visible_tenant(call.key, members.pop("tenant", None))
    event_types = members.pop("event_types", None)
    description = cast(Description, members)
    subscription, is_new = call.services.subscriptions.create(
        call.key.name, target_url, tenant, event_types, description
    )
    body = subscription.to_json({"secret": subscription.secret})
    return respond(
        body,
        201 if is_new else 200,
        Location=call.locate(f"subscriptions/{subscription.subscription_id}"),
    )


MAX_WITH_DELIVERIES = 25  # subscriptions of a page: the deliveries of each are counted


@route("GET", "/subscriptions", *CUSTOMERS, **validation.SUBSCRIPTION_PARAMETERS)
def list_subscriptions(call: Call) -> Response:
    """Return a page of subscriptions, with the counts of their deliveries if these are included.

    With these counts, a page has at most MAX_WITH_DELIVERIES subscriptions. A token sees only its
    tenant's subscriptions.
    """
    query = {**call.query, "tenant": visible_tenant(call.key, call.query.get("tenant"))}
    if query.pop("include", None):
        query["limit"] = min(MAX_WITH_DELIVERIES, query.get("limit", MAX_WITH_DELIVERIES))
    found, last = call.services.subscriptions.page(**query)
    return respond_list("subscriptions", show_subscriptions(found, call), last)


@route(
    "GET",
    "/subscriptions/{subscription_id}",
    *CUSTOMERS,
    include=validation.INCLUDE_DELIVERIES,
)
def get_subscription(call: Call) -> Response:
    """Return a subscription, with the counts of its deliveries if these are included."""
    [shown] = show_subscriptions([call.read_subscription()], call)
    return respond(shown)


@route("PATCH", "/subscriptions/{subscription_id}", *CUSTOMERS)
def edit_subscription(call: Call) -> Response:
    """Change members of a subscription, and return it.

    If the host of a new target URL is not allowed, the error message names the allowed hosts, but
    not for a token.
    """
    members = validation.parse_subscription_changes(
        call.load_body(),
        call.services.settings.subscription_hosts,
        names_hosts=not call.key.is_token,
        now=rfc3339(call.services.clock()),
    )
    edited = call.services.subscriptions.edit(call.read_subscription(), cast(Edit, members))
    return respond(require_found(edited).to_json())


@route("GET", "/subscriptions/{subscription_id}/secret", *CUSTOMERS)
def get_secret(call: Call) -> Response:
    """Return the secret of a subscription."""
    return respond_secret(call.read_subscription(), call)


@route("POST", "/subscriptions/{subscription_id}/secret", *CUSTOMERS)
def renew_secret(call: Call) -> Response:
    """Replace the secret of a subscription by the secret in the body, or by a random one; return
    the new secret.
    """
    # None: the body has no secret, and a random one is made.
    secret = call.parse_body(validation.SECRET_MEMBER).get("secret")
    renewed = call.services.subscriptions.renew_secret(call.read_subscription(), secret)
    return respond_secret(require_found(renewed), call)


@route("POST", "/subscriptions/{subscription_id}/disable", *CUSTOMERS)
def disable_subscription(call: Call) -> Response:
    """Pause a subscription: its copies are kept, and not pushed."""
    subscription = call.read_subscription()
    return respond(require_found(call.services.subscriptions.pause(subscription)).to_json())


@route("POST", "/subscriptions/{subscription_id}/enable", *CUSTOMERS)
def enable_subscription(call: Call) -> Response:
    """Enable a subscription that was paused or disabled."""
    subscription = call.read_subscription()
    return respond(require_found(call.services.subscriptions.enable(subscription)).to_json())


@route("POST", "/subscriptions/{subscription_id}/send", *CUSTOMERS)
def send_event(call: Call) -> Response:
    """Make a copy of a stored event for a subscription, and queue it for a push.

    With a token, the copy goes through the slow lane, so that other events do not wait for it: a
    customer may send thousands of events.
    """
    members = call.parse_body(validation.SEND_MEMBERS, "event_id")
    event_id = members["event_id"]
    subscription = call.read_subscription()
    copy = recipients.send(event_id, subscription, call, is_bulk=call.key.is_token)
    return respond(copy.summary_json(), 202, Location=call.locate(f"../../events/{copy.event_id}"))


@route("GET", "/subscriptions/{subscription_id}/missed", *CUSTOMERS, **validation.MISSED_PARAMETERS)
def list_missed(call: Call) -> Response:
    """Return a page of the events that a subscription should have received and did not. With the
    query parameter `subject`, return all events of this subject, each with what became of it.

    The other query parameters limit the events by creation.
    """
    missed = recipients.find_missed(call.read_subscription(), call.services, **call.query)
    events = [event.to_json() for event in missed.missed]
    return respond_list("events", events, missed.next_cursor, examined=missed.examined)


@route("POST", "/subscriptions/{subscription_id}/recover", *CUSTOMERS)
def recover_events(call: Call) -> Response:
    """Push the events that a subscription missed, as many as one call can; return the counts."""
    members = call.parse_body(validation.RECOVER_MEMBERS)
    recovered = recipients.recover(call.read_subscription(), call, **members)
    cursor = {"next_cursor": encode_cursor(recovered.next_cursor)}
    return respond(dumps(recovered._asdict() | cursor))


@route("POST", "/subscriptions/{subscription_id}/test", *CUSTOMERS)
def push_test_event(call: Call) -> Response:
    """Push a test event to a subscription now, and return the result.

    With an event in the body, also return whether the subscription would get this event, and the
    reason if not.
    """
    document = call.load_body(b"{}")
    new_event = None
    if document != {}:
        new_event = parse_new_event(document, members=validation.TEST_MEMBERS)
    subscription = call.read_subscription()
    targets = call.services.targets
    event = targets.make_test_event(subscription, new_event)
    tried = targets.push_test_event(event, subscription, call)
    # Why the subscription would not get the event of the body; None: it would, or there is none.
    excluded = None
    matches = None
    if new_event:
        excluded = recipients.find_exclusion(subscription, event, call.services)
        matches = excluded is None
    return respond(dumps({**tried, "matches": matches, **miss_members(excluded)}))


@route("DELETE", "/subscriptions/{subscription_id}", *CUSTOMERS)
def delete_subscription(call: Call) -> Response:
    """Delete a subscription; succeed even if there is none that the caller may see."""
    subscription_id = call.ids["subscription_id"]
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
    """Process a batch of messages of the work queue.

    Raises BatchError if some messages failed; SQS delivers these again after the visibility
    timeout.
    """
    process(event, is_fast_lane=True)


@app.on_sqs_message(
    queue=f"triggers-api-{STAGE}-slow-queue",
    batch_size=10,
    maximum_batching_window_in_seconds=deploy_settings["worker_batch_window_seconds"],
    maximum_concurrency=deploy_settings["slow_max_concurrency"],
)
def slow_worker(event: SQSEvent) -> None:
    """Process a batch of messages of the slow queue, as `worker` does."""
    process(event, is_fast_lane=False)


def process(event: SQSEvent, *, is_fast_lane: bool) -> None:
    """Process a batch of messages; raise BatchError if some failed.

    :param is_fast_lane: Whether the messages are from the work queue, not from the slow queue.
    """
    messages = [Message.from_record(record.to_dict()) for record in event]
    work = partial(
        batch.process,
        messages,
        remaining_seconds=remaining_seconds(event.context),
        is_fast_lane=is_fast_lane,
    )
    run(event, work)


@app.schedule(Rate(SWEEP_PERIOD_SECONDS // 60, unit=Rate.MINUTES))
def sweep(event: CloudWatchEvent) -> None:
    """Queue overdue events, then continue the catch-ups of destinations that deliver again."""
    try:
        run(event, schedules.sweep)
    finally:  # catch-ups continue even if the sweep fails
        run(event, lambda services: catch_up(services, services.subscriptions))


@app.schedule(Rate(schedules.CHECK_DLQ_SECONDS // 60, unit=Rate.MINUTES))
def check_dlq(event: CloudWatchEvent) -> None:
    """Publish metrics of the queues and of the oldest pending event.

    The name is that of a deployed function, which would remain if the name were changed.
    """
    run(event, schedules.publish_depths)


def run(event: Any, work: Callable[[Services], None]) -> None:
    """Call `work` with the services of this container, for an event of SQS or of a schedule; log
    lines have the request id of the invocation meanwhile.
    """
    with telemetry.request_id(event.context.aws_request_id):
        work(deps.get())


def limit_to_tenant(query: Query, call: Call) -> Query:
    """Return the query for the outcomes of events, limited to the events of the token's tenant.

    Reports are left out: a report is about a subscription, which may be the operator's. Raises
    ApiError 403 if the query has another tenant, and InvalidRequestError if it has a status or a
    subscription.
    """
    # The status of an event is the result of its push to the operator's webhook, which a tenant may
    # not see.
    faults = [
        FieldFault(name, "must not be given together with include=outcome and a token")
        for name in ("status", "subscription_id")
        if name in call.query
    ]
    if faults:
        raise InvalidRequestError(*faults)
    tenant = visible_tenant(call.key, query.tenant)
    return replace(query, tenant=tenant, source="original", skips_reports=True)


def require_own_subscription(query: Query, call: Call) -> None:
    """Raise ApiError 403 unless the query is for the copies of a subscription of the token's
    tenant.
    """
    visible_tenant(call.key, query.tenant)  # raises the error if the query has another tenant
    if not call.find_subscription(query.subscription_id):
        raise ApiError(
            403,
            "forbidden",
            "A token can list the copies for one of its subscriptions, by subscription_id, or the"
            " events of its tenant, by include=outcome.",
        )


def applied_preference(call: Call) -> Json:
    """Return the header `Preference-Applied` for the response if the request's `Prefer` header has
    `respond-async` (RFC 7240); otherwise no header.
    """
    preferences = call.request.headers.get("prefer", "").split(",")
    names = [preference.split(";")[0].strip().lower() for preference in preferences]
    return {"Preference-Applied": "respond-async"} if "respond-async" in names else {}


def respond_secret(subscription: Subscription, call: Call) -> Response:
    """Return the response with the secret of a subscription; for a token also with its full target
    URL, which operators do not see.
    """
    secret = {
        "secret": subscription.secret,
        "previous_until": subscription.previous_until(call.services.clock()),
        "target_url": subscription.target_url if call.key.is_token else None,
    }
    return respond(dumps(secret))


if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    deps.initialize()
elif faults:  # on a developer's machine; a deployed function responds with 503
    sys.stderr.write("; ".join(faults) + "\n")
    if "CHALICE_WORKER" in os.environ:
        # The parent process is Chalice's reloader, which would exit with 0 when this process ends.
        os.kill(os.getppid(), signal.SIGTERM)
    # `chalice local` imports this file in a thread, where an exception would not end the process.
    os._exit(1)
