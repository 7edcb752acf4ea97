"""Print a line for `make import-subscriptions` for each endpoint of Svix (SVIX_URL, SVIX_TOKEN)."""

import json
import os
import sys

import urllib3

http = urllib3.PoolManager(headers={"Authorization": f"Bearer {os.environ['SVIX_TOKEN']}"})


def get(path, **fields):
    url = f"{os.environ['SVIX_URL']}/api/v1/app{path}"
    return http.request("GET", url, fields=fields).json()


def listed(path, **after):
    page = get(path, limit=250, **after)
    yield from page["data"]
    if not page["done"]:
        yield from listed(path, iterator=page["iterator"])


for app in listed(""):
    for endpoint in listed(f"/{app['id']}/endpoint"):
        path = f"/{app['id']}/endpoint/{endpoint['id']}"
        if endpoint.get("disabled"):
            print(f"{path}: skipped, because it is disabled", file=sys.stderr)
            continue
        if endpoint.get("channels"):
            print(f"{path}: gets its types of all channels: add a filter", file=sys.stderr)
        line = {
            "target_url": endpoint["url"],
            "event_types": endpoint["filterTypes"],
            "tenant": app["uid"] or app["id"],
            "name": endpoint["description"][:100] or None,
            "headers": get(f"{path}/headers")["headers"] or None,  # without those in "sensitive"
            "secret": get(f"{path}/secret")["key"],
            "body": "payload",
            "disabled_at": "until it is switched",
        }
        print(json.dumps(line))
