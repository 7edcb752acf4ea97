"""Find out which actions on which resources a policy must allow for a call to AWS.

Source: actions, resources and condition keys in AWS's Service Authorization Reference.
"""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

import botocore.session

from tests.support.ministack import Call
from tests.support.world import Json

# IAM has no actions for batches of SQS.
BATCHES = {"SendMessageBatch": "SendMessage", "DeleteMessageBatch": "DeleteMessage"}
ARNS = {
    "iam": "arn:aws:iam:::role/{RoleName}",
    "secretsmanager": "arn:aws:secretsmanager:::secret:{SecretId}-AbCdEf",
    "sns": "{TopicArn}",
}
OPERATORS: Any = {"ArnLike": fnmatchcase, "StringEquals": str.__eq__}
LAMBDA = botocore.session.get_session().get_service_model("lambda")


class Request(NamedTuple):
    """A request that IAM checks against a policy."""

    # Such as `sqs:SendMessage`.
    action: str
    # An ARN, "*" for a list, or "" if the call does not name its resource.
    resource: str
    # Values by condition key.
    context: Json


def is_allowed(policy: Json, request: Request) -> bool:
    """Return whether a statement of a policy allows a request."""
    return any(
        statement["Effect"] == "Allow"
        and any(fnmatchcase(request.action, action) for action in statement["Action"])
        and any(fnmatchcase(request.resource, resource) for resource in statement["Resource"])
        and all(
            OPERATORS[operator](request.context.get(key, ""), value)
            for operator, values in statement.get("Condition", {}).items()
            for key, value in values.items()
        )
        for statement in policy["Statement"]
    )


def requests_of(call: Call, functions: Json) -> Iterator[Request]:
    """Yield the requests that IAM checks for a call.

    :param functions: ARNs of functions by the ids of their event sources.
    """
    action, members = _operation(call)
    resource = _resource(call, members)
    context = {}
    if "EventSourceMapping" in action:
        context["lambda:FunctionArn"] = functions.get(members.get("UUID", ""), resource)
        resource = "*"
        if "UUID" in members:
            resource = f"arn:aws:lambda:::event-source-mapping:{members['UUID']}"
    if call.service == "lambda" and "Role" in members:
        passed_to = {"iam:PassedToService": "lambda.amazonaws.com"}
        yield Request("iam:PassRole", members["Role"], passed_to)
    if call.service != "sts":  # which needs no permission
        yield Request(f"{call.service}:{BATCHES.get(action, action)}", resource, context)


def _resource(call: Call, members: Json) -> str:
    """Return the ARN of the resource of a call, "*" for a list, or "" if it names none."""
    match call.service:
        case "apigateway":
            return f"arn:aws:apigateway:::{call.path.split('?')[0]}"
        case "cloudformation":
            stack = members.get("StackName", "")
            return stack if ":" in stack else f"arn:aws:cloudformation:::stack/{stack}/"
        case "dynamodb":
            index = f"/index/{members['IndexName']}" if "IndexName" in members else ""
            [table, *_] = members.get("RequestItems") or [members["TableName"]]
            return f"arn:aws:dynamodb:::table/{table}{index}"
        case "events":
            return f"arn:aws:events:::rule/{members.get('Rule') or members['Name']}"
        case "lambda":
            function = members.get("FunctionName") or members.get("Resource", "*")
            is_name = ":" not in function and function != "*"
            return f"arn:aws:lambda:::function:{function}" if is_name else function
        case "sqs":
            name = members.get("QueueName") or members["QueueUrl"].rpartition("/")[2]
            return f"arn:aws:sqs:::{name}"
    return ARNS.get(call.service, "").format_map(members)


def _operation(call: Call) -> tuple[str, Json]:
    """Return the action of a call and its parameters.

    A call has the JSON protocol, the query protocol, or is of the REST API of Lambda or of API
    Gateway. For API Gateway, the action is the HTTP method, and there are no parameters.
    """
    if call.target:
        return call.target.rpartition(".")[2], json.loads(call.body)
    path = call.path.split("?")[0].rstrip("/")
    if not path:
        members = dict(parse_qsl(call.body.decode()))
        return members["Action"], members
    for name in LAMBDA.operation_names:
        http = LAMBDA.operation_model(name).http
        pattern = re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", http["requestUri"].rstrip("/"))
        found = re.fullmatch(pattern, path)
        if found and http["method"] == call.method:
            named = {key: unquote(value) for key, value in found.groupdict().items()}
            return name, json.loads(call.body or b"{}") | named
    return call.method, {}
