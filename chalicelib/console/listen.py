"""Post what one of your webhooks gets to a server on this machine, as a push would come.

    TRIGGERS_URL=https://… TRIGGERS_API_KEY=trt_… python listen.py http://127.0.0.1:3000/hook

The key is a token, or an API key with the scope consume. Each delivery that is made from now on is
fetched, signed with the webhook's secret, and posted once, whatever becomes of it at the webhook's
own URL, also while the webhook is paused. Not posted are replays, and what is sent later of an
event that is older than the newest hundred of the webhook. Needs Python 3.8 and no packages.
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
# The list goes by the creation of events. A delivery may appear in it after younger ones: by some
# seconds, and much later if it is sent or recovered. So the newest hundred are read again, at a
# read unit each, and all of the latest ten seconds.
LOOK_BACK = 100
OVERLAP = timedelta(seconds=10)
# Seconds between two calls. While nothing comes, there are at most ten in a minute, with the two
# of the beginning.
FIRST_WAIT, SHORTEST_WAIT, LONGEST_WAIT = 2, 1, 10
LONGEST_BACKOFF = 60  # seconds after an error
CONNECTIONS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
UTC = timezone.utc  # noqa: UP017 - Python 3.8 has no datetime.UTC
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class RefusedError(Exception):
    """The API refuses a call: it is not there, or not allowed."""


class RedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follow no redirect, which would take the key to another host."""

    def redirect_request(self, request, response, code, *_):
        raise RefusedError(
            f"{code}: a redirect, which would take the key along: check TRIGGERS_URL"
        )


opener = urllib.request.build_opener(RedirectHandler)


def get(path, **parameters):
    """Call the API; repeat until it responds. Raises RefusedError."""
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
    """Return what the API says, or the reason where something else answered."""
    try:
        return json.load(error)["detail"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return error.reason


def find_webhook(subscription_id):
    if subscription_id:
        return get(f"/subscriptions/{subscription_id}")
    found = get("/subscriptions")["subscriptions"]
    if len(found) == 1:
        return found[0]
    if not found:
        raise RefusedError("there is no webhook: add one, or name it with --webhook")
    rows = [f"  {one['subscription_id']}  {one['name'] or one['target_host']}" for one in found]
    raise RefusedError("\n".join(["choose a webhook with --webhook:", *rows]))


def list_deliveries(webhook, since):
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
    """Return the headers of a push of now: https://www.standardwebhooks.com."""
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
    """Return the status of the response, or what went wrong."""
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
    """Post a delivery, and print a line; return whether the response was 2xx."""
    try:
        text = get(f"/events/{event['event_id']}")["push_body"]
    except RefusedError as error:
        if not str(error).startswith("404"):
            raise
        text = None
    if text is None:
        return True  # it was erased, or its webhook deleted
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
    """Return the creation of the oldest event to look for, and the ids of older deliveries.

    Without `since`, all deliveries that there are count as older.
    """
    page = get("/events", subscription_id=webhook["subscription_id"], limit=LOOK_BACK)
    newest = page["events"]
    older = {one["event_id"] for one in newest if not since or one["created_at"] < since}
    first = newest[-1]["created_at"] if newest and page["next_cursor"] else ""
    return min(first, since or first), older


def next_start(since, listed, is_settled):
    """Return the creation of the oldest event to look for after `listed`.

    :param is_settled: Whether nothing comes any more that is a little older than the latest.
    """
    if len(listed) <= LOOK_BACK:
        return since
    first = listed[-LOOK_BACK]["created_at"]
    return max(since, first if is_settled else min(first, earlier(listed[-1]["created_at"])))


def earlier(created_at):
    return (datetime.strptime(created_at, FORMAT) - OVERLAP).strftime(FORMAT)


def listen(options):
    webhook = find_webhook(options.webhook)
    since, seen = start_of(webhook, options.since)
    name = webhook["name"] or webhook["subscription_id"]
    print(f"what {name} ({webhook['state']}) gets goes to {options.url}", file=sys.stderr)
    types = options.events.split(",")
    wait = FIRST_WAIT
    if not (options.since or options.once):
        time.sleep(wait)
    while True:
        new = failed = 0
        secret = ""
        try:
            listed = list(list_deliveries(webhook, since))
            for event in listed:
                if event["event_id"] in seen:
                    continue
                if any(fnmatch.fnmatchcase(event["event_type"], entry) for entry in types):
                    new += 1
                    path = f"/subscriptions/{webhook['subscription_id']}/secret"
                    secret = secret or get(path)["secret"]
                    failed += not forward(event, webhook, secret, options)
                seen.add(event["event_id"])
            since = next_start(since, listed, is_settled=wait >= LONGEST_WAIT and not new)
        # such as a key that has expired, or an answer of something that is not the API
        except (RefusedError, LookupError, TypeError, ValueError) as error:
            print(f"{error}: trying again in {LONGEST_WAIT} s", file=sys.stderr, flush=True)
            new, failed, wait = 0, 1, LONGEST_WAIT
        if options.once:
            sys.exit(1 if failed else 0)
        wait = SHORTEST_WAIT if new else min(2 * wait, LONGEST_WAIT)
        time.sleep(wait)


def moment(text):
    """Return a time as the API shows times: of one, or of so long ago as `10m` says."""
    try:
        if text[:-1].isdigit() and text[-1] in SECONDS:
            ago = timedelta(seconds=int(text[:-1]) * SECONDS[text[-1]])
            return (datetime.now(UTC) - ago).strftime(FORMAT)
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))  # noqa: FURB162 - Python 3.8 to 3.10
        return at.astimezone(UTC).strftime(FORMAT)
    except OverflowError:
        raise argparse.ArgumentTypeError("is out of range") from None


def http_url(text):
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in CONNECTIONS or not parts.hostname or text.split() != [text]:
        raise argparse.ArgumentTypeError(
            "must begin with http:// or https://, and have a host and no spaces"
        )
    parts.port  # noqa: B018 - raises ValueError if it is no port
    return text


def header(text):
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("must be 'Name: value'")
    return name, value.strip()


def check_environment():
    """End with a sentence, which repeats no key, unless URL and key can be used."""
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
