"""Print a line for `make import-subscriptions` for each endpoint of Svix (SVIX_URL, SVIX_TOKEN).

What an endpoint loses by the move is printed on standard error, after its id.
"""

import json
import os
import sys

import urllib3

# Svix answers 429 where it is asked too fast. urllib3 waits for as long as Retry-After says.
RETRIES = urllib3.Retry(10, backoff_factor=1, status_forcelist=(429, 502, 503, 504))
NAME_CHARACTERS = 100
LOST = ("channels", "rateLimit", "throttleRate", "uid", "metadata")
REFUSED = """\
a line that make import-subscriptions refuses has the id of its endpoint as subscription_id: mend
the line, or leave that endpoint with Svix"""

http = urllib3.PoolManager(
    headers={"Authorization": f"Bearer {os.environ['SVIX_TOKEN']}"}, retries=RETRIES, timeout=30
)


def get(path, absent=(), **fields):
    url = f"{os.environ['SVIX_URL'].rstrip('/')}/api/v1/app{path}"
    response = http.request("GET", url, fields=fields)
    if response.status in absent:
        return {}
    if response.status != 200:
        sys.exit(f"{url}: {response.status}. The lines are not complete: run this again")
    return response.json()


def listed(path):
    page = {"done": False, "iterator": None}
    while not page["done"]:
        after = {"iterator": page["iterator"]} if page["iterator"] else {}
        page = get(path, limit=250, **after)
        yield from page["data"]


def print_line(app, endpoint):
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


for app in listed(""):
    for endpoint in listed(f"/{app['id']}/endpoint"):
        if endpoint.get("disabled"):
            print(f"{endpoint['id']} ({app['id']}) is disabled, and left out", file=sys.stderr)
        else:
            print_line(app, endpoint)
print(REFUSED, file=sys.stderr)
