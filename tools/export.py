"""`make export-subscriptions STAGE=prod`: all that another system needs to take subscriptions
over.
"""

import time

import boto3

from chalicelib.customers.subscription import Subscription, show_secret
from chalicelib.settings import Settings


def export_subscriptions(settings: Settings) -> None:
    """Print each subscription as a line of JSON, with its target URL, headers and secrets.

    status-index has all their attributes, also of those that an older version stored.
    """
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
