#!/bin/sh
# EventBridge behind: a customer's event bus (of the kind of 2026) verifies what Triggers API pushes. Needs the AWS CLI,
# and SECRET: what `make signing-secret` prints. Prints the URL; give it, with SECRET as its own secret, to the webhook.
set -eu
aws() { command aws --output text "$@"; }

ROLE_ARN=$(aws iam create-role --role-name triggers-behind --query Role.Arn --assume-role-policy-document '{
  "Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole",
    "Principal": {"Service": "events.amazonaws.com"}}]}')
BUS_ARN=$(aws eventbridgev2 create-event-bus --name webhooks --query EventBusArn)
aws eventbridgev2 wait event-bus-active --event-bus-arn "$BUS_ARN"
aws iam put-role-policy --role-name triggers-behind --policy-name put --policy-document '{
  "Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": ["events:PutEvents", "events:PutRawEvents"], "Resource": "'"$BUS_ARN"'"}]}'

aws eventbridgev2 create-event-source --query EventSourceDetails.WebhookDetails.WebhookUrl \
  --cli-input-json file:///dev/stdin <<END
{"Name": "triggers", "EventBusArn": "$BUS_ARN", "Configuration": {"WebhookEventsConfiguration": {
  "RoleArn": "$ROLE_ARN", "AuthConfiguration": {"HmacAuthConfiguration": {
    "SecretValue": "${SECRET#whsec_}", "SecretEncoding": "BASE64", "Algorithm": "SHA256", "Encoding": "BASE64",
    "SignatureHttpHeader": "webhook-signature", "SignaturePrefix": "v1,", "Delimiter": " ",
    "MessageIdHttpHeader": "webhook-id", "TimestampHttpHeader": "webhook-timestamp",
    "SignedMessageComposition": "MESSAGE_ID_DOT_TIMESTAMP_DOT_BODY"}}}}}
END
