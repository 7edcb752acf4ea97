#!/bin/sh
# EventBridge behind: a customer's event bus (of the kind of 2026) verifies what Triggers API pushes. Needs the AWS CLI,
# and SECRET: what `make signing-secret` prints. Prints the URL; give it, with SECRET as its own secret, to the webhook.
set -eu
# call SERVICE OPERATION QUERY: the input is JSON, and on no command line
call() { aws "$1" "$2" --cli-input-json file:///dev/stdin --output text --query "$3"; }

ROLE_ARN=$(call iam create-role Role.Arn <<END
{"RoleName": "triggers-behind", "AssumeRolePolicyDocument":
 "{\"Version\": \"2012-10-17\", \"Statement\": [{\"Effect\": \"Allow\", \"Action\": \"sts:AssumeRole\", \"Principal\": {\"Service\": \"events.amazonaws.com\"}}]}"}
END
)
BUS_ARN=$(echo '{"Name": "webhooks"}' | call eventbridgev2 create-event-bus EventBusArn)
aws eventbridgev2 wait event-bus-active --event-bus-arn "$BUS_ARN" < /dev/null
call iam put-role-policy @ <<END
{"RoleName": "triggers-behind", "PolicyName": "put", "PolicyDocument":
 "{\"Version\": \"2012-10-17\", \"Statement\": [{\"Effect\": \"Allow\", \"Action\": [\"events:PutEvents\", \"events:PutRawEvents\"], \"Resource\": \"$BUS_ARN\"}]}"}
END
call eventbridgev2 create-event-source EventSourceDetails.WebhookDetails.WebhookUrl <<END
{"Name": "triggers", "EventBusArn": "$BUS_ARN", "Configuration": {"WebhookEventsConfiguration": {
  "RoleArn": "$ROLE_ARN", "AuthConfiguration": {"HmacAuthConfiguration": {
    "SecretValue": "${SECRET#whsec_}", "SecretEncoding": "BASE64", "Algorithm": "SHA256", "Encoding": "BASE64",
    "SignatureHttpHeader": "webhook-signature", "SignaturePrefix": "v1,", "Delimiter": " ",
    "MessageIdHttpHeader": "webhook-id", "TimestampHttpHeader": "webhook-timestamp",
    "SignedMessageComposition": "MESSAGE_ID_DOT_TIMESTAMP_DOT_BODY"}}}}}
END
