"""Print a line for `make import-subscriptions` for each endpoint of Svix (SVIX_URL, SVIX_TOKEN).

The features that an endpoint loses by the move are printed on standard error, after its id. With an
application and an endpoint as arguments, the program prints instead the ids of the events that Svix
did not deliver to that endpoint, the oldest first.
"""

import json
import os
import re
import sys

import urllib3

# Svix responds 429 if calls come too fast. urllib3 waits for as long as Retry-After says.
RETRIES = urllib3.Retry(
    10, connect=1, read=1, backoff_factor=1, status_forcelist=(429, 502, 503, 504)
)
TIMEOUT = urllib3.Timeout(connect=5, read=30)
# The statuses of messages that wait for an attempt, failed, or are being sent.
UNDELIVERED = (1, 2, 3)
NAME_CHARACTERS = 100
LOST = ("channels", "rateLimit", "throttleRate", "uid", "metadata")
REFUSED = """\
a line that make import-subscriptions refuses has the id of its endpoint as subscription_id: mend
the line, or leave that endpoint with Svix"""

for variable in ("SVIX_URL", "SVIX_TOKEN"):
    if not os.environ.get(variable):
        sys.exit(f"set {variable}")
if len(sys.argv) not in (1, 3):
    sys.exit("give no arguments, or the ids of an application and of an endpoint")

http = urllib3.PoolManager(
    headers={"Authorization": f"Bearer {os.environ['SVIX_TOKEN']}"},
    retries=RETRIES,
    timeout=TIMEOUT,
)


def get(path, absent=(), **fields):
    """Return the JSON of a GET request to Svix; exit with an error message if the request fails.

    :param path: Relative to the list of applications.
    :param absent: Status codes for which `{}` is returned.
    :param fields: The query parameters.
    """
    url = f"{os.environ['SVIX_URL'].rstrip('/')}/api/v1/app{path}"
    try:
        response = http.request("GET", url, fields=fields)
    except urllib3.exceptions.MaxRetryError as error:
        sys.exit(f"{url}: no answer ({error.reason}). Is SVIX_URL that of your region?")
    if response.status in absent:
        return {}
    if response.status != 200:
        sys.exit(f"{url}: {response.status}. The lines are not complete: run this again")
    return response.json()


def listed(path, **fields):
    """Yield the entries of all pages of a list of Svix."""
    page = {"done": False, "iterator": None}
    while not page["done"]:
        after = {"iterator": page["iterator"]} if page["iterator"] else {}
        page = get(path, limit=250, **fields, **after)
        yield from page["data"]


def print_undelivered(app_id, endpoint_id):
    """Print the ids of events that Svix did not deliver to an endpoint, the oldest first.

    A message without the id of an event is printed on standard error.
    """
    path = f"/{app_id}/endpoint/{endpoint_id}/msg"
    messages = [message for status in UNDELIVERED for message in listed(path, status=status)]
    for message in sorted(messages, key=lambda message: message["timestamp"]):
        event_id = message.get("eventId") or ""
        if re.fullmatch("evt_[0-9a-f]{32}", event_id):
            print(event_id)
        else:
            what = f"{message['id']} ({message['eventType']}, {message['timestamp']})"
            print(f"{what}: was posted to Svix alone", file=sys.stderr)


def print_line(app, endpoint):
    """Print the line of an endpoint and, on standard error, each feature that it loses."""
    path = f"/{app['id']}/endpoint/{endpoint['id']}"
    tenant = app.get("uid") or app["id"]
    headers = get(f"{path}/headers")
    secret = get(f"{path}/secret")["key"]
    # Svix' own server, which you can run yourself, has no transformations.
    transformation = get(f"{path}/transformation", absent=(404, 501))
    description = " ".join(endpoint["description"].split())

    lost = [f"{name} {json.dumps(endpoint[name])}" for name in LOST if endpoint.get(name)]
    lost += [f"the header {name}: ask the customer for it" for name in headers["sensitive"]]
    if transformation.get("enabled"):
        lost.append("its transformation: the payload comes as it was posted")
    if len(description) > NAME_CHARACTERS:
        lost.append(f"its description after {NAME_CHARACTERS} characters")
    if not secret.startswith("whsec_"):
        lost.append("its secret, which is no whsec_: give the receiver the new one")
        secret = None
    for what in lost:
        print(f"{endpoint['id']} ({tenant}) loses {what}", file=sys.stderr)

    line = {
        "subscription_id": endpoint["id"],
        "target_url": endpoint["url"],
        "event_types": endpoint.get("filterTypes"),
        "tenant": tenant,
        "created_by": f"tenant:{tenant}",
        "name": description[:NAME_CHARACTERS] or None,
        "headers": headers["headers"] or None,
        "secret": secret,
        "body": "payload",
        "header_prefix": "svix",
        "disabled_at": "until it is switched",
    }
    print(json.dumps(line))


def print_lines():
    """Print the line of each endpoint that is not disabled, and the tenant of each application."""
    for app in listed(""):
        tenant = app.get("uid") or app["id"]
        print(f"{app['id']}: post its events with the tenant {tenant}", file=sys.stderr)
        for endpoint in listed(f"/{app['id']}/endpoint"):
            if endpoint.get("disabled"):
                print(f"{endpoint['id']} ({app['id']}) is disabled, and left out", file=sys.stderr)
            else:
                print_line(app, endpoint)
    print(REFUSED, file=sys.stderr)


print(f"asking {os.environ['SVIX_URL']}", file=sys.stderr)
if sys.argv[1:]:
    print_undelivered(*sys.argv[1:])
else:
    print_lines()
