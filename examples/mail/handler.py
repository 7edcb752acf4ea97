"""Mail a customer when its webhook fails or is disabled: a Lambda function with a function URL.

Variables: SECRET (of its subscription), FROM (verified in SES), ADDRESSES (a JSON object of tenants
and addresses, or read them where you keep them). Its package has standardwebhooks.
"""

import base64
import json
import os

import boto3
from standardwebhooks import Webhook, WebhookVerificationError

ses = boto3.client("sesv2")


def handler(request, _context):
    body = request["body"]
    if request["isBase64Encoded"]:
        body = base64.b64decode(body).decode()
    try:
        report = Webhook(os.environ["SECRET"]).verify(body, request["headers"])
    except WebhookVerificationError:
        return {"statusCode": 401}
    webhook = report["payload"]
    address = json.loads(os.environ["ADDRESSES"]).get(report["tenant"])
    if address:
        what = report["event_type"].rpartition(".")[2]  # failing, disabled or ended
        subject = f"Your webhook {webhook['name'] or webhook['target_host']} is {what}"
        text = f"{webhook['target_host']}: {webhook['last_error']}"
        ses.send_email(
            FromEmailAddress=os.environ["FROM"],
            Destination={"ToAddresses": [address]},
            Content={"Simple": {"Subject": {"Data": subject}, "Body": {"Text": {"Data": text}}}},
        )
    return {"statusCode": 204}
