"""`make export-subscriptions STAGE=prod`: all that another stage or system needs to take
subscriptions over.
"""

import os
import time

import boto3

from chalicelib import settings as stage_settings
from chalicelib.customers.subscription import Subscription, show_secret
from chalicelib.infra.clients import read_secret
from chalicelib.settings import Variables


def export_subscriptions(variables: Variables) -> None:
    """Print each subscription as a line of JSON, with its target URL, headers and secrets.

    status-index has all their attributes, also of those that an older version stored. `variables`
    are the stage's; those that `make run` prints count for its own AWS alone.
    """
    if "AWS_ENDPOINT_URL" in os.environ:
        variables = {**variables, **os.environ}
    settings = stage_settings.load(variables, read_secret)
    scan = boto3.client("dynamodb").get_paginator("scan")
    pages = scan.paginate(TableName=settings.events_table_name, IndexName="status-index")
    for item in pages.search("Items[?starts_with(event_id.S, 'sub_')]"):
        subscription = Subscription.from_item(item)
        secrets = subscription.secrets(settings.signing_secrets, time.time())
        members = {
            "target_url": subscription.target_url,
            "headers": subscription.headers,
            "secret": subscription.secret(settings.signing_secrets),
            "signs_with": [show_secret(secret) for secret in secrets],
        }
        print(subscription.to_json(**members))
