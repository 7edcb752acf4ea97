"""Post the deliveries of one of your webhooks to a server on this machine, in the form of pushes.

    TRIGGERS_URL=https://… TRIGGERS_API_KEY=trt_… python listen.py http://127.0.0.1:3000/hook

The key is a token, or an API key with the scope consume. The program fetches each delivery that is
made from now on, signs it with the webhook's secret, and posts it once. The pushes to the webhook's
own URL do not matter, and the webhook may be paused. Replays are not posted, and neither are
deliveries that are sent later for an event older than the newest hundred events of the webhook.
Needs Python 3.8 and no packages.
"""

import argparse
import base64
import fnmatch
import hashlib
import hmac
import http.client
import json
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime, timedelta, timezone

FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
# Deliveries are listed in the order in which their events were created. A delivery may appear in
# the list some seconds after deliveries of younger events, and much later if it is sent or
# recovered. So the newest hundred are read again, at one read unit each, and all of the latest ten
# seconds.
LOOK_BACK = 100
OVERLAP = timedelta(seconds=10)
# Seconds between two calls. While there are no deliveries, the program makes at most ten calls in a
# minute, including the two calls of its start.
FIRST_WAIT, SHORTEST_WAIT, LONGEST_WAIT = 2, 1, 10
LONGEST_BACKOFF = 60  # seconds after an error
CONNECTIONS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
UTC = timezone.utc  # noqa: UP017 - Python 3.8 has no datetime.UTC
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class RefusedError(Exception):
    """The API refuses a call, or the webhook cannot be determined."""


class RedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follow no redirect, because the key would be sent to another host."""

    def redirect_request(self, request, response, code, *_):
        raise RefusedError(
            f"{code}: a redirect, which would take the key along: check TRIGGERS_URL"
        )


opener = urllib.request.build_opener(RedirectHandler)


def get(path, **parameters):
    """Return the JSON of the API's response to a GET request.

    While there is no response, or one of 429 or 5xx, the call is repeated for ever, after a wait
    that doubles up to LONGEST_BACKOFF seconds and is at least as long as the API's Retry-After asks
    for, if that is not longer than LONGEST_BACKOFF.

    :param path: The path and no query, such as `/events`.
    :param parameters: The parameters of the query; those that are empty or None are left out.
    :raises RefusedError: If the API refuses the call with another status.
    """
    query = urllib.parse.urlencode({name: text for name, text in parameters.items() if text})
    url = f"{os.environ['TRIGGERS_URL'].rstrip('/')}{path}?{query}"
    headers = {"Authorization": "Bearer " + os.environ["TRIGGERS_API_KEY"]}
    wait = 1
    while True:
        try:
            request = urllib.request.Request(url, None, headers)
            with opener.open(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise RefusedError(f"{error.code}: {detail_of(error)}") from None
            fault = f"the API responded {error.code}"
            asked = error.headers.get("Retry-After", "")
            if asked.isdigit():
                wait = max(wait, min(int(asked), LONGEST_BACKOFF))
        except (OSError, http.client.HTTPException, ValueError) as error:
            fault = f"the API does not respond ({error})"
        print(f"{fault}: trying again in {wait} s", file=sys.stderr, flush=True)
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_BACKOFF)


def detail_of(error):
    """Return what an error response says: the `detail` of its JSON or, if the response is not from
    the API, the reason beside its status code.

    :param error: The HTTPError.
    """
    try:
        return json.load(error)["detail"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return error.reason


def find_webhook(subscription_id):
    """Return a webhook (a subscription) as the API shows it.

    :param subscription_id: The id; None: return the only webhook that the key lists. An API key
        lists only webhooks without a tenant, so an id may name a webhook that is not listed.
    :raises RefusedError: If there is no webhook with the id or, without an id, if no webhook is
        listed or several are.
    """
    if subscription_id:
        return get(f"/subscriptions/{subscription_id}")
    found = get("/subscriptions")["subscriptions"]
    if len(found) == 1:
        return found[0]
    if not found:
        raise RefusedError("no webhook is listed: add one, or name one with --webhook")
    lines = [
        f"  {webhook['subscription_id']}  {webhook['name'] or webhook['target_host']}"
        for webhook in found
    ]
    raise RefusedError("\n".join(["choose a webhook with --webhook:", *lines]))


def list_deliveries(webhook, since):
    """Yield the deliveries of a webhook, as the API lists them, the oldest first.

    :param since: The creation time of the oldest event, inclusive, in the format of the API; empty:
        all deliveries.
    """
    cursor = ""
    while cursor is not None:
        page = get(
            "/events",
            subscription_id=webhook["subscription_id"],
            since=since,
            order="oldest",
            limit=LOOK_BACK,
            cursor=cursor,
        )
        yield from page["events"]
        cursor = page["next_cursor"]


def headers_of(event, body, webhook, secret):
    """Return the headers with which the API would push an event now, signed as in
    https://www.standardwebhooks.com.

    :param event: The event or delivery as the API lists it.
    :param body: The bytes of the body to sign.
    :param webhook: The webhook as the API shows it. If it has a `header_prefix`, the signed headers
        are sent a second time with that prefix.
    :param secret: The signing secret, `whsec_` and the key in Base64.
    """
    event_id, timestamp = event["event_id"], str(int(time.time()))
    key = base64.b64decode(secret[len("whsec_") :])
    digest = hmac.new(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    signed = {
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }
    if webhook.get("header_prefix"):
        prefix = webhook["header_prefix"]
        signed.update({name.replace("webhook", prefix): text for name, text in signed.items()})
    fixed = {"Content-Type": "application/json", "User-Agent": "triggers-api/listen"}
    return {**fixed, **signed, "webhook-event-type": event["event_type"]}


def post(url, body, headers):
    """Post a body to a URL, and follow no redirect; return the status code of the response or, if
    there was none within 30 seconds, the text of the error.
    """
    parts = urllib.parse.urlsplit(url)
    connect = CONNECTIONS[parts.scheme]
    connection = connect(parts.hostname, parts.port, timeout=30)
    path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
    try:
        connection.request("POST", path, body, headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()


def forward(event, webhook, secret, options):
    """Post a delivery to the server on this machine, and print a line with the result; return
    whether the response was 2xx.

    A delivery that no longer exists is not posted, and counts as successful.

    :param event: The delivery as the API lists it.
    :param webhook: Its webhook as the API shows it.
    :param secret: The webhook's signing secret, `whsec_…`.
    :param options: The options of the command: the `url`, and each further `header`.
    """
    try:
        text = get(f"/events/{event['event_id']}")["push_body"]
    except RefusedError as error:
        if not str(error).startswith("404"):
            raise
        text = None
    if text is None:
        return True  # the event was erased, or the webhook deleted
    body = text.encode()
    started = time.monotonic()
    headers = {**dict(options.header), **headers_of(event, body, webhook, secret)}
    status = post(options.url, body, headers)
    words = [
        time.strftime("%H:%M:%S"),
        event["event_type"],
        event.get("subject") or "-",
        str(status),
        f"{1000 * (time.monotonic() - started):.0f} ms",
    ]
    print("  ".join(words), flush=True)
    return str(status).startswith("2")


def start_of(webhook, since):
    """Return where to begin: the creation time from which deliveries are listed, and the set of ids
    of listed deliveries that are not posted.

    The list begins with the newest LOOK_BACK deliveries, or earlier if `since` is earlier. A
    delivery that is added to the list later is posted, even if it is for an older event.

    :param since: The creation time of the oldest event to post, in the format of the API; None:
        post no delivery that exists now.
    """
    page = get("/events", subscription_id=webhook["subscription_id"], limit=LOOK_BACK)
    newest = page["events"]
    older = {event["event_id"] for event in newest if not since or event["created_at"] < since}
    # The oldest of the newest deliveries; empty if these are all: then the list has no beginning.
    first = newest[-1]["created_at"] if newest and page["next_cursor"] else ""
    start = min(first, since) if since else first
    return start, older


def next_start(since, listed, is_settled):
    """Return the creation time from which deliveries are listed in the next call.

    The next call lists the newest LOOK_BACK deliveries again, because a delivery may be added for
    an older event. Unless `is_settled`, it also lists the deliveries again that are up to OVERLAP
    older than the newest one. The time is never earlier than `since`.

    :param since: The creation time from which `listed` was listed.
    :param listed: The deliveries of the latest call, the oldest first.
    :param is_settled: Whether there was no new delivery for so long that no delivery for an event
        of the last OVERLAP is to come.
    """
    if len(listed) <= LOOK_BACK:
        return since  # all of them are among the newest
    start = listed[-LOOK_BACK]["created_at"]
    if not is_settled:
        newest = listed[-1]["created_at"]
        start = min(start, earlier(newest))
    return max(since, start)


def earlier(created_at):
    """Return the time that is OVERLAP before a time."""
    return (datetime.strptime(created_at, FORMAT) - OVERLAP).strftime(FORMAT)


def listen(options):
    """Post new deliveries for ever or, with `--once`, post the deliveries that exist and exit: with
    1 if a post failed or the API refused a call, otherwise with 0.

    :param options: The options of the command: `url` (where to post to), `webhook` (an id, or
        None), `since` (the creation time of the oldest event to post; None: post only deliveries
        that are made from now on), `events` (types or patterns with `*`, joined by commas),
        `header` (the further headers) and `once`.
    :raises RefusedError: If the webhook cannot be determined.
    """
    webhook = find_webhook(options.webhook)
    since, seen = start_of(webhook, options.since)
    name = webhook["name"] or webhook["subscription_id"]
    print(f"what {name} ({webhook['state']}) gets goes to {options.url}", file=sys.stderr)
    types = options.events.split(",")
    wait = FIRST_WAIT  # seconds
    if not (options.since or options.once):
        time.sleep(wait)  # no delivery that exists now is to be posted
    while True:
        new = 0  # deliveries that were posted
        failed = 0
        secret = ""  # read once for all deliveries of a call, since it may be renewed
        try:
            listed = list(list_deliveries(webhook, since))
            for event in listed:
                if event["event_id"] in seen:
                    continue
                if any(fnmatch.fnmatchcase(event["event_type"], entry) for entry in types):
                    new += 1
                    path = f"/subscriptions/{webhook['subscription_id']}/secret"
                    secret = secret or get(path)["secret"]
                    if not forward(event, webhook, secret, options):
                        failed += 1
                seen.add(event["event_id"])
            # The longest wait is reached after several calls without a new delivery.
            is_settled = wait >= LONGEST_WAIT and not new
            since = next_start(since, listed, is_settled)
        # For example, the key has expired, or another server than the API responded. Deliveries
        # that are not in `seen` are tried again.
        except (RefusedError, LookupError, TypeError, ValueError) as error:
            print(f"{error}: trying again in {LONGEST_WAIT} s", file=sys.stderr, flush=True)
            new = 0
            failed = 1
            wait = LONGEST_WAIT
        if options.once:
            sys.exit(1 if failed else 0)
        wait = SHORTEST_WAIT if new else min(2 * wait, LONGEST_WAIT)
        time.sleep(wait)


def moment(text):
    """Return a time in the format of the API (UTC), for the value of `--since`.

    :param text: A time in RFC 3339, or an age: a number and `s`, `m`, `h` or `d`, such as `10m`.
    :raises ArgumentTypeError: If the time is out of range.
    :raises ValueError: If the text is neither.
    """
    try:
        if text[:-1].isdigit() and text[-1] in SECONDS:
            ago = timedelta(seconds=int(text[:-1]) * SECONDS[text[-1]])
            return (datetime.now(UTC) - ago).strftime(FORMAT)
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))  # noqa: FURB162 - Python 3.8 to 3.10
        return at.astimezone(UTC).strftime(FORMAT)
    except OverflowError:
        raise argparse.ArgumentTypeError("is out of range") from None


def http_url(text):
    """Return a URL unchanged; raise ArgumentTypeError or ValueError if it is not an http or https
    URL with a host, or has spaces.
    """
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in CONNECTIONS or not parts.hostname or text.split() != [text]:
        raise argparse.ArgumentTypeError(
            "must begin with http:// or https://, and have a host and no spaces"
        )
    parts.port  # noqa: B018 - raises ValueError if it is no port
    return text


def header(text):
    """Return the name and the value of a header, for a value of `--header`.

    :param text: `Name: value`.
    :raises ArgumentTypeError: If there is no colon.
    """
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("must be 'Name: value'")
    return name, value.strip()


def check_environment():
    """Exit with an error message if the environment variable TRIGGERS_URL or TRIGGERS_API_KEY is
    not set or has the wrong form. The message does not show the key.
    """
    for variable in ("TRIGGERS_URL", "TRIGGERS_API_KEY"):
        if not os.environ.get(variable):
            sys.exit(f"set {variable}")
    try:
        http_url(os.environ["TRIGGERS_URL"])
    except (argparse.ArgumentTypeError, ValueError):
        sys.exit("TRIGGERS_URL must be the http or https URL of the API, without spaces")
    if not re.fullmatch("[!-~]+", os.environ["TRIGGERS_API_KEY"]):
        sys.exit("TRIGGERS_API_KEY must be a token or a key: printable ASCII without spaces")


parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument(
    "url", type=http_url, help="where to post to, such as http://127.0.0.1:3000/hook"
)
parser.add_argument("--webhook", help="its id, sub_…; needed if there are several")
parser.add_argument(
    "--since",
    type=moment,
    help="also what was created since: so long ago, such as 10m, 2h or 1d, or a time such as"
    " 2026-11-25T02:25:03Z",
)
parser.add_argument("--events", default="*", help="types, such as order.created,invoice.*")
parser.add_argument(
    "--header", action="append", type=header, default=[], help="'Name: value' of each request"
)
parser.add_argument("--once", action="store_true", help="end when what --since finds is posted")
if __name__ == "__main__":
    options = parser.parse_args()
    check_environment()
    try:
        listen(options)
    except RefusedError as error:
        sys.exit(str(error))
    except (LookupError, TypeError):
        sys.exit("what answers at TRIGGERS_URL is not the API")
    except KeyboardInterrupt:
        sys.exit(0)
