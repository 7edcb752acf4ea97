#!/bin/sh
# EventBridge in front: a rule posts events to Triggers API, and a pipe the messages of a queue. Needs the AWS CLI,
# TRIGGERS_URL, TRIGGERS_API_KEY (scope produce), and the ARNs of two queues: DLQ_ARN, whose policy lets
# events.amazonaws.com send, and a redrive policy on QUEUE_ARN.
set -eu
: "${TRIGGERS_URL:?is not set}" "${TRIGGERS_API_KEY:?is not set}" "${QUEUE_ARN:?is not set}" "${DLQ_ARN:?is not set}"
cat <<'END'
To undo what this makes, also where it stops:
  aws pipes delete-pipe --name orders-to-triggers
  aws events remove-targets --rule orders-to-triggers --ids triggers
  aws events delete-rule --name orders-to-triggers
  aws events delete-api-destination --name triggers
  aws events delete-connection --name triggers
  aws iam delete-role-policy --role-name triggers-front --policy-name post
  aws iam delete-role --role-name triggers-front
END
# call SERVICE OPERATION QUERY: the input is JSON, in a file that others cannot read: the key is on no command line.
# The AWS CLI reads the file more than once.
INPUT=$(mktemp)
trap 'rm -f "$INPUT"' EXIT
call() {
  cat > "$INPUT"
  aws "$1" "$2" --cli-input-json "file://$INPUT" --output text --query "$3"
}

ROLE_ARN=$(call iam create-role Role.Arn <<END
{"RoleName": "triggers-front", "AssumeRolePolicyDocument":
 "{\"Version\": \"2012-10-17\", \"Statement\": [{\"Effect\": \"Allow\", \"Action\": \"sts:AssumeRole\", \"Principal\": {\"Service\": [\"events.amazonaws.com\", \"pipes.amazonaws.com\"]}}]}"}
END
)
CONNECTION_ARN=$(call events create-connection ConnectionArn <<END
{"Name": "triggers", "AuthorizationType": "BASIC",
 "AuthParameters": {"BasicAuthParameters": {"Username": "eventbridge", "Password": "$TRIGGERS_API_KEY"}}}
END
)
# API Gateway takes 200 calls a second.
DESTINATION_ARN=$(call events create-api-destination ApiDestinationArn <<END
{"Name": "triggers", "ConnectionArn": "$CONNECTION_ARN", "HttpMethod": "POST",
 "InvocationEndpoint": "$TRIGGERS_URL/events", "InvocationRateLimitPerSecond": 100}
END
)
call iam put-role-policy @ <<END
{"RoleName": "triggers-front", "PolicyName": "post", "PolicyDocument":
 "{\"Version\": \"2012-10-17\", \"Statement\": [{\"Effect\": \"Allow\", \"Action\": \"events:InvokeApiDestination\", \"Resource\": \"$DESTINATION_ARN\"}, {\"Effect\": \"Allow\", \"Action\": [\"sqs:ReceiveMessage\", \"sqs:DeleteMessage\", \"sqs:GetQueueAttributes\"], \"Resource\": \"$QUEUE_ARN\"}]}"}
END

# A rule for each event type, which is constant: a detail-type may have spaces. The id of an event makes its retries one
# event. Without respond-async, a slow webhook would use up the 5 s after which EventBridge gives up and retries.
# Every event must have detail.customer: without it, EventBridge leaves the tenant's value out, the body is not JSON, is
# answered with 400, and ends in the queue of DLQ_ARN. Where events have no customer, take "tenant" out of both lines.
call events put-rule RuleArn <<END
{"Name": "orders-to-triggers", "EventPattern": "{\"source\": [\"shop\"], \"detail-type\": [\"Order Placed\"]}"}
END
call events put-targets FailedEntries <<END
{"Rule": "orders-to-triggers", "Targets": [{"Id": "triggers", "Arn": "$DESTINATION_ARN", "RoleArn": "$ROLE_ARN",
  "HttpParameters": {"HeaderParameters": {"Idempotency-Key": "$.id", "Prefer": "respond-async"}},
  "InputTransformer": {"InputPathsMap": {"detail": "$.detail", "customer": "$.detail.customer"},
    "InputTemplate": "{\"event_type\": \"order.placed\", \"tenant\": <customer>, \"payload\": <detail>}"},
  "DeadLetterConfig": {"Arn": "$DLQ_ARN"}}]}
END

# The same for a queue. A DynamoDB stream takes "DynamoDBStreamParameters": {"StartingPosition": "LATEST", "BatchSize": 1,
# "MaximumRetryAttempts": 20, "DeadLetterConfig": {"Arn": "$DLQ_ARN"}} (else a bad record holds its shard for a day),
# "$.eventID", and each member by its type: <$.dynamodb.NewImage.order_id.S>. Its role needs dynamodb:DescribeStream,
# GetRecords, GetShardIterator, ListStreams, and sqs:SendMessage to DLQ_ARN.
call pipes create-pipe Arn <<END
{"Name": "orders-to-triggers", "RoleArn": "$ROLE_ARN", "Source": "$QUEUE_ARN", "Target": "$DESTINATION_ARN",
 "SourceParameters": {"SqsQueueParameters": {"BatchSize": 1}},
 "TargetParameters": {
   "HttpParameters": {"HeaderParameters": {"Idempotency-Key": "$.messageId", "Prefer": "respond-async"}},
   "InputTemplate": "{\"event_type\": \"order.placed\", \"payload\": <$.body>}"}}
END
