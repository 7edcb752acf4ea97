"""`make export-subscriptions STAGE=prod`: all that another system needs to take subscriptions over."""

import json

import boto3

from chalicelib.core.event import dumps
from chalicelib.customers.subscriptions import Subscription
from chalicelib.settings import Settings


def export_subscriptions(settings: Settings) -> None:
    """Print each subscription as a line of JSON, with its target URL, headers and present secret.

    status-index has all their attributes, also of those that an older version stored.
    """
    scan = boto3.client("dynamodb").get_paginator("scan")
    pages = scan.paginate(TableName=settings.events_table_name, IndexName="status-index")
    for subscription in map(Subscription.from_item, pages.search("Items[?starts_with(event_id.S, 'sub_')]")):
        print(dumps({**json.loads(subscription.to_json_with_secret(settings.signing_secrets)), **vars(subscription)}))
