"""`make smoke`: check a stage through its API, with nothing but TRIGGERS_URL and TRIGGERS_API_KEY.

Each check is a call whose response must have a certain status and, in most checks, a certain text.
The checks post one event, with a type and a tenant that no other event has, and lease it unless it
was pushed before. If TARGET_URL is set, the worker pushes a copy of the event to that URL.
"""

import json
import os
import secrets
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import click

from tools.api import Api, printable

# The seconds before each try of a check. An index lags behind the table, a worker takes time to
# start and waits up to 60 s for a batch, and an event that is being pushed cannot be erased.
PAUSES_SECONDS = (0, 0.5, 1, 2, 4, 8, 16, 32, 16)
DELIVERED = '"status": "delivered"'
UNCHECKED = """\
not checked: whether the worker pushes, and whether pushes reach their destination. To check that,
too, set TARGET_URL= to a URL that responds with 2xx and whose host is in SUBSCRIPTION_HOSTS."""


def check(
    api: Api,
    method: str,
    path: str,
    *statuses: int,
    expect: str = "",
    **options: Any,
) -> Any:
    """Make a call, print a line about it, and return the JSON of its response. Repeat the call
    while its status is 409 or its response lacks the expected text. Raise ClickException if the
    response is never as expected.

    :param statuses: The expected status codes, at least one.
    :param expect: A text that the JSON must contain; empty: the JSON is not checked.
    :param options: Keyword arguments of `Api.request`.
    """
    for pause_seconds in PAUSES_SECONDS:
        time.sleep(pause_seconds)
        started = time.monotonic()
        response = api.request(method, path, **options)
        duration_ms = 1000 * (time.monotonic() - started)
        line = f"{response.status} {duration_ms:6,.0f} ms  {method} {path}"
        if response.status in statuses and expect in json.dumps(response.content):
            print(f"ok  {line}", flush=True)
            return response.content
        if response.status not in (409, *statuses):
            break
    # The last response was not as expected. An error of the API has a `detail`, an error of API
    # Gateway a `message`.
    content = response.content
    detail = content.get("detail") or content.get("message", content)
    raise click.ClickException(printable(f"{line}, not {expect or statuses[0]}: {detail}"))


@click.command()
def main() -> None:
    """Make all checks, and delete the event and the webhook that they created. If the variable
    TARGET_URL is set, check that pushes arrive at that URL. Raise ClickException at the first check
    that fails, after the deletions.
    """
    # Its arguments are a method, a path, and the expected status codes.
    smoke = partial(check, Api())
    # The tenant, the event type and the idempotency key, which no other run has.
    name = f"smoke-{secrets.token_hex(8)}"
    target_url = os.environ.get("TARGET_URL", "")
    smoke("GET", "/health", 200)
    scopes = smoke("GET", "/me", 200, expect="consume")["scopes"]
    with ExitStack() as cleanup:
        if target_url:
            # The webhook (a subscription) is created before the event, so that the POST of the
            # event makes a copy for it, which the worker pushes.
            hook = {"target_url": target_url, "tenant": name, "event_types": [name]}
            created = smoke("POST", "/subscriptions", 201, 200, json=hook)
            path = f"/subscriptions/{created['subscription_id']}"
            cleanup.callback(smoke, "DELETE", path, 204)
            smoke("POST", f"{path}/test", 200, expect='"delivered"')
        smoke("GET", "/subscriptions", 200, fields={"tenant": name})
        event = {"event_type": name, "payload": {}, "tenant": name}
        headers = {"Idempotency-Key": name, "Prefer": "respond-async"}
        post = partial(smoke, "POST", "/events", 202, json=event, headers=headers)
        event_id = post()["event_id"]
        if "erase" in scopes:
            cleanup.callback(smoke, "DELETE", f"/events/{event_id}", 204)
        else:
            cleanup.callback(print, f"{event_id} stays: the key lacks the scope erase")
        smoke("GET", "/events", 200, fields={"tenant": name}, expect=event_id)
        # A short lease, because a leased event cannot be erased if the command is stopped here.
        lease = {"event_type": name, "lease_seconds": 10}
        leased = smoke("POST", "/inbox/lease", 200, json=lease)["events"]
        if leased:  # otherwise the event was pushed before
            body = {"lease_id": leased[0]["lease_id"], "event_ids": [event_id]}
            expected = f'"acknowledged": ["{event_id}"]'
            smoke("POST", "/inbox/acknowledge", 200, json=body, expect=expected)
        post(expect=event_id)  # with the same key, which returns the first event
        smoke("GET", f"/events/{event_id}", 200, expect=DELIVERED)
        if target_url:
            own = {"subscription_id": created["subscription_id"]}
            smoke("GET", "/events", 200, fields=own, expect=DELIVERED)  # the copy
    if not target_url:
        print(UNCHECKED)


if __name__ == "__main__":
    main(prog_name="make smoke")
