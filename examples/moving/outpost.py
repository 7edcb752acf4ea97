"""Print a line for `make import-subscriptions` for each webhook of Outpost (OUTPOST_URL and
OUTPOST_API_KEY).
"""

import json
import os

import urllib3

http = urllib3.PoolManager(headers={"Authorization": f"Bearer {os.environ['OUTPOST_API_KEY']}"})


def get(path, **fields):
    url = f"{os.environ['OUTPOST_URL']}/api/v1/tenants{path}"
    return http.request("GET", url, fields=fields).json()


def tenants(**after):
    page = get("", limit=100, **after)
    yield from page["models"]
    if page["pagination"]["next"]:
        yield from tenants(next=page["pagination"]["next"])


for tenant in tenants():
    for destination in get(f"/{tenant['id']}/destinations"):
        if destination["type"] == "webhook":
            topics = destination["topics"]
            line = {
                "target_url": destination["config"]["url"],
                "event_types": None if "*" in topics else topics,
                "tenant": tenant["id"],
                "headers": json.loads(destination["config"].get("custom_headers") or "null"),
                "secret": destination["credentials"]["secret"],  # of the mode `standard`
                "body": "payload",
                "disabled_at": "until it is switched",
            }
            print(json.dumps(line))
