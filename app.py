"""Routes, worker and schedules. Each handler parses, calls and responds."""

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
    require,
    respond,
    respond_list,
    respond_page,
    show_batch,
    show_subscriptions,
)
from chalicelib.web.validation import (
    encode_cursor,
    parse_batch,
    parse_batched,
    parse_new_event,
)

deploy_settings, faults = environment.parse(os.environ)
STAGE = deploy_settings["stage"]
app = Chalice(app_name=f"triggers-api-{STAGE}", configure_logs=False)  # the name of the REST API
route = partial(routes.route, app)
# who has subscriptions: operators and, with a token, customers
CUSTOMERS = (Scope.CONSUME, TOKEN)
MOST_WITH_DELIVERIES = 25  # subscriptions of a page
# Chalice would answer 415 for other content types
public = partial(app.route, content_types=[])


@public("/health")
def get_health() -> Response:
    return respond(dumps({"status": "ok", "version": __version__, "stage": STAGE}))


@public("/health", methods=["HEAD"])
def head_health() -> Response:
    return Response("", {})


@route("GET", "/me", *Scope, TOKEN, include=validation.INCLUDE_CATALOGUE)
def get_me(call: Call) -> Response:
    key = call.key
    settings = call.services.settings
    offered = settings.offered_types or None
    me: Json = {
        "name": key.tenant or key.name,
        "scopes": sorted(key.scopes - {TOKEN}),
        "stage": STAGE,
        "tenant": key.tenant,
        "expires_at": key.expires_at,
        "event_types": offered and [*offered],
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
    members = call.body(validation.FILTER_MEMBERS, "filter", "payload")
    mismatch = find_filter_mismatch(members["filter"], dumps(members["payload"]))
    answer = {"matches": mismatch is None, "member": mismatch.member if mismatch else None}
    return respond(dumps(answer))


@route("POST", "/tokens", Scope.CONSUME)
def create_token(call: Call) -> Response:
    members = call.body(validation.TOKEN_MEMBERS, "tenant")
    tenant = members["tenant"]
    expires_at = int(call.services.clock()) + members.get("expires_in_seconds", 3600)
    made = {
        "token": make_token(call.key, tenant, expires_at, call.services.settings),
        "tenant": tenant,
        "expires_at": rfc3339(expires_at),
    }
    return respond(dumps(made), 201)


@public("/openapi.json")
def get_openapi() -> Response:
    path = Path(__file__).parent / "chalicelib" / "openapi.json"
    return respond(path.read_text(encoding="utf-8"))


@public("/listen.py")
def get_listener() -> Response:
    try:
        validation.parse_query(routes.given_query(app.current_request), {})
    except InvalidRequestError as error:
        return routes.problem(error)
    return Response(*console.listener())


@public("/")
def get_console() -> Response:
    return Response(*console.page())


@route("POST", "/events", Scope.PRODUCE)
def post_event(call: Call) -> Response:
    key = call.request.headers.get("idempotency-key")
    parse = partial(parse_new_event, idempotency_key=key)
    headers = applied_preference(call)
    [posted] = posting.post([call.json()], parse, call, call.key.name, respond_async=bool(headers))
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
    if "idempotency-key" in call.request.headers:
        raise InvalidRequestError(FieldFault("Idempotency-Key", "must not come with a batch"))
    events = parse_batch(call.text(b"{}"))
    headers = applied_preference(call)
    posted = posting.post(events, parse_batched, call, call.key.name, respond_async=bool(headers))
    return respond(show_batch(posted), 200, **headers)


@route("GET", "/events/{event_id}", Scope.PRODUCE, *CUSTOMERS)
def get_event(call: Call) -> Response:
    sees_responses = not call.key.scopes.isdisjoint(CUSTOMERS)
    event = call.event()
    push_body = call.services.targets.push_body(event) if sees_responses else None
    return respond(event.full_json({"push_body": push_body}, include_responses=sees_responses))


@route("GET", "/events/{event_id}/recipients", *CUSTOMERS)
def list_recipients(call: Call) -> Response:
    tenant = call.key.tenant
    subscriptions = call.services.subscriptions
    [event] = recipients.as_tenant_sees_them([call.original()], tenant, subscriptions)
    found = recipients.read_recipients([event], call.services, subscriptions, tenant)
    rows = found[event.event_id]
    shown = join_list(map(recipients.recipient_json, rows))
    return respond(join_object({"outcome": judge(event, rows)}, recipients=shown))


@route("GET", "/events", *CUSTOMERS, **validation.PARAMETERS)
def list_events(call: Call) -> Response:
    query = replace(listing.EVENTS, **call.query)
    if query.status == UNSETTLED and not query.subscription_id:
        raise InvalidRequestError(FieldFault("status", "undelivered needs subscription_id"))
    if call.key.is_token and query.include == "outcome":
        query = outcomes_of_tenant(call, query)
    elif call.key.is_token:
        visible_tenant(call.key, query.tenant)
        if not call.find_subscription(query.subscription_id):
            raise ApiError(
                403,
                "forbidden",
                "A token lists the copies of one of its subscriptions, by subscription_id, or the"
                " events of its tenant, by include=outcome.",
            )
    return respond_page(query, call)


@route("GET", "/inbox", Scope.CONSUME, **validation.INBOX_PARAMETERS)
def list_inbox(call: Call) -> Response:
    return respond_page(replace(listing.INBOX, **call.query), call)


@route("POST", "/inbox/lease", Scope.CONSUME)
def lease_events(call: Call) -> Response:
    events = inbox.lease(call.services, **call.body(validation.LEASE_MEMBERS))
    return respond(join_object({}, events=join_list(event.leased_json() for event in events)))


@route("POST", "/inbox/acknowledge", Scope.CONSUME)
def acknowledge_events(call: Call) -> Response:
    members = call.body(validation.ACKNOWLEDGEMENT_MEMBERS, "lease_id", "event_ids")
    return respond(dumps(inbox.acknowledge_many(call.services, **members)))


@route("DELETE", "/events/{event_id}", Scope.ERASE)
def erase_event(call: Call) -> Response:
    erasure.erase(call.ids["event_id"], call.services)
    return Response("", {}, 204)


@route("POST", "/events/{event_id}/acknowledge", Scope.CONSUME, lease_id=str)
def acknowledge_event(call: Call) -> Response:
    inbox.acknowledge(call.ids["event_id"], call.services, call.query.get("lease_id"))
    return Response("", {}, 204)


@route("POST", "/events/{event_id}/release", Scope.CONSUME, lease_id=str)
def release_event(call: Call) -> Response:
    lease_id = call.query.get("lease_id")
    if not lease_id:
        raise InvalidRequestError(FieldFault("lease_id", "is required"))
    inbox.release(call.ids["event_id"], lease_id, call.services)
    return Response("", {}, 204)


@route("POST", "/events/{event_id}/replay", *CUSTOMERS)
def replay_event(call: Call) -> Response:
    event = replay.replay(call.event(), call, is_bulk=call.key.is_token)
    return respond(event.summary_json(), 202, Location=call.locate(f"../{event.event_id}"))


@route("POST", "/subscriptions", *CUSTOMERS)
def create_subscription(call: Call) -> Response:
    members = validation.parse_subscription(
        call.json(),
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


@route("GET", "/subscriptions", *CUSTOMERS, **validation.SUBSCRIPTION_PARAMETERS)
def list_subscriptions(call: Call) -> Response:
    query = {**call.query, "tenant": visible_tenant(call.key, call.query.get("tenant"))}
    if query.pop("include", None):
        query["limit"] = min(MOST_WITH_DELIVERIES, query.get("limit", MOST_WITH_DELIVERIES))
    found, last = call.services.subscriptions.page(**query)
    return respond_list("subscriptions", show_subscriptions(found, call), last)


@route(
    "GET",
    "/subscriptions/{subscription_id}",
    *CUSTOMERS,
    include=validation.INCLUDE_DELIVERIES,
)
def get_subscription(call: Call) -> Response:
    [shown] = show_subscriptions([call.subscription()], call)
    return respond(shown)


@route("PATCH", "/subscriptions/{subscription_id}", *CUSTOMERS)
def edit_subscription(call: Call) -> Response:
    members = validation.parse_subscription(
        call.json(),
        call.services.settings.subscription_hosts,
        names_hosts=not call.key.is_token,
        now=rfc3339(call.services.clock()),
    )
    edited = call.services.subscriptions.edit(call.subscription(), cast(Edit, members))
    return respond(require(edited).to_json())


@route("GET", "/subscriptions/{subscription_id}/secret", *CUSTOMERS)
def get_secret(call: Call) -> Response:
    return respond_secret(call.subscription(), call)


@route("POST", "/subscriptions/{subscription_id}/secret", *CUSTOMERS)
def renew_secret(call: Call) -> Response:
    secret = call.body(validation.SECRET_MEMBER).get("secret")
    renewed = call.services.subscriptions.renew_secret(call.subscription(), secret)
    return respond_secret(require(renewed), call)


@route("POST", "/subscriptions/{subscription_id}/disable", *CUSTOMERS)
def disable_subscription(call: Call) -> Response:
    subscription = call.subscription()
    return respond(require(call.services.subscriptions.pause(subscription)).to_json())


@route("POST", "/subscriptions/{subscription_id}/enable", *CUSTOMERS)
def enable_subscription(call: Call) -> Response:
    subscription = call.subscription()
    return respond(require(call.services.subscriptions.enable(subscription)).to_json())


@route("POST", "/subscriptions/{subscription_id}/send", *CUSTOMERS)
def send_event(call: Call) -> Response:
    members = call.body(validation.SEND_MEMBERS, "event_id")
    copy = recipients.send(
        members["event_id"], call.subscription(), call, is_bulk=call.key.is_token
    )
    return respond(copy.summary_json(), 202, Location=call.locate(f"../../events/{copy.event_id}"))


@route("GET", "/subscriptions/{subscription_id}/missed", *CUSTOMERS, **validation.MISSED_PARAMETERS)
def list_missed(call: Call) -> Response:
    missed = recipients.find_missed(call.subscription(), call.services, **call.query)
    events = [event.to_json() for event in missed.missed]
    return respond_list("events", events, missed.next_cursor, examined=missed.examined)


@route("POST", "/subscriptions/{subscription_id}/recover", *CUSTOMERS)
def recover_events(call: Call) -> Response:
    members = call.body(validation.RECOVER_MEMBERS)
    recovered = recipients.recover(call.subscription(), call, **members)
    cursor = {"next_cursor": encode_cursor(recovered.next_cursor)}
    return respond(dumps(recovered._asdict() | cursor))


@route("POST", "/subscriptions/{subscription_id}/test", *CUSTOMERS)
def push_test_event(call: Call) -> Response:
    document = call.json(empty=b"{}")
    new_event = None
    if document != {}:
        new_event = parse_new_event(document, members=validation.TEST_MEMBERS)
    subscription = call.subscription()
    targets = call.services.targets
    event = targets.make_test_event(subscription, new_event)
    tried = targets.push_test_event(event, subscription, call)
    excluded = matches = None
    if new_event:
        excluded = recipients.find_exclusion(subscription, event, call.services)
        matches = excluded is None
    return respond(dumps({**tried, "matches": matches, **miss_members(excluded)}))


@route("DELETE", "/subscriptions/{subscription_id}", *CUSTOMERS)
def delete_subscription(call: Call) -> Response:
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
    """Process a batch; raise if some messages failed, which SQS returns after the visibility
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
    """Process a batch of the slow lane, as `worker` does."""
    process(event, is_fast_lane=False)


def process(event: SQSEvent, *, is_fast_lane: bool) -> None:
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
    try:
        run(event, schedules.sweep)
    finally:  # an event that cannot be marked stops no destination's catch-up
        run(event, lambda services: catch_up(services, services.subscriptions))


@app.schedule(Rate(5, unit=Rate.MINUTES))
def check_dlq(event: CloudWatchEvent) -> None:
    """Publish depths and ages; renaming the function would leave the deployed one behind."""
    run(event, schedules.publish_depths)


def run(event: Any, work: Callable[[Services], None]) -> None:
    """Do the work of a function for an event of SQS or of a schedule."""
    with telemetry.request_id(event.context.aws_request_id):
        work(deps.get())


def outcomes_of_tenant(call: Call, query: Query) -> Query:
    """Return the query of a token that asks what became of its tenant's events.

    Reports are left out: one exists because of a subscription, which may be the operator's. Raises
    InvalidRequestError, and ApiError 403 for another tenant.
    """
    # The status is that of the event's own push, which is the operator's.
    faults = [
        FieldFault(name, "must not come with include=outcome and a token")
        for name in ("status", "subscription_id")
        if name in call.query
    ]
    if faults:
        raise InvalidRequestError(*faults)
    tenant = visible_tenant(call.key, query.tenant)
    return replace(query, tenant=tenant, source="original", skips_reports=True)


def applied_preference(call: Call) -> Json:
    """Return the header of the response if `Prefer` has `respond-async` (RFC 7240), else none."""
    preferences = call.request.headers.get("prefer", "").split(",")
    names = [preference.split(";")[0].strip().lower() for preference in preferences]
    return {"Preference-Applied": "respond-async"} if "respond-async" in names else {}


def respond_secret(subscription: Subscription, call: Call) -> Response:
    """Answer with the secret of a subscription and, for its owner alone, the URL in full."""
    secret = {
        "secret": subscription.secret,
        "previous_until": subscription.previous_until(call.services.clock()),
        "target_url": subscription.target_url if call.key.is_token else None,
    }
    return respond(dumps(secret))


if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    deps.initialize()
elif faults:  # a deployed function answers with 503
    sys.stderr.write("; ".join(faults) + "\n")
    if "CHALICE_WORKER" in os.environ:
        # The parent process is Chalice's reloader, which would exit with 0 when this one ends.
        os.kill(os.getppid(), signal.SIGTERM)
    # an exception in the thread that `chalice local` imports this file in would not end the process
    os._exit(1)
