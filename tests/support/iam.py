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
    """Return whether a statement of a policy allows a request.

    :param policy: The policy document; each `Action` and `Resource` must be a list.
    """
    return any(_does_allow(statement, request) for statement in policy["Statement"])


def _does_allow(statement: Json, request: Request) -> bool:
    """Return whether a statement allows a request: by its effect, an action, a resource, and all of
    its conditions. A key that the request lacks counts as "".
    """
    conditions = [
        OPERATORS[operator](request.context.get(key, ""), value)
        for operator, values in statement.get("Condition", {}).items()
        for key, value in values.items()
    ]
    return (
        statement["Effect"] == "Allow"
        and any(fnmatchcase(request.action, action) for action in statement["Action"])
        and any(fnmatchcase(request.resource, resource) for resource in statement["Resource"])
        and all(conditions)
    )


def requests_of(call: Call, functions: Json) -> Iterator[Request]:
    """Yield the requests that IAM checks for a call: one for the call itself, unless it needs no
    permission, and one for passing a role if the call gives a function its role.

    :param functions: ARNs of functions by the ids of their event sources, which are the UUIDs of
        event source mappings.
    """
    action, parameters = _operation(call)
    resource = _resource(call, parameters)
    context = {}
    if "EventSourceMapping" in action:
        # The function of the mapping is a condition key, and the mapping itself is the resource. A
        # call that creates a mapping has no UUID yet, but the name of the function.
        uuid = parameters.get("UUID", "")
        context["lambda:FunctionArn"] = functions.get(uuid, resource)
        resource = f"arn:aws:lambda:::event-source-mapping:{uuid}" if uuid else "*"
    if call.service == "lambda" and "Role" in parameters:
        passed_to = {"iam:PassedToService": "lambda.amazonaws.com"}
        yield Request("iam:PassRole", parameters["Role"], passed_to)
    if call.service != "sts":  # which needs no permission
        # The permission for a batch, such as `SendMessageBatch`, is that for one message.
        permitted_action = BATCHES.get(action, action)
        yield Request(f"{call.service}:{permitted_action}", resource, context)


def _resource(call: Call, parameters: Json) -> str:
    """Return the ARN of the resource of a call, without its region and account; "*" for a list of
    functions; or "" if the call does not name its resource.

    :param parameters: The parameters of the call, as `_operation` returns them.
    """
    match call.service:
        case "apigateway":
            return f"arn:aws:apigateway:::{call.path.split('?')[0]}"
        case "cloudformation":
            stack = parameters.get("StackName", "")  # can be an ARN
            return stack if ":" in stack else f"arn:aws:cloudformation:::stack/{stack}/"
        case "dynamodb":
            index = f"/index/{parameters['IndexName']}" if "IndexName" in parameters else ""
            # A batch has the table's name as the first key of RequestItems.
            [table, *_] = parameters.get("RequestItems") or [parameters["TableName"]]
            return f"arn:aws:dynamodb:::table/{table}{index}"
        case "events":
            return f"arn:aws:events:::rule/{parameters.get('Rule') or parameters['Name']}"
        case "lambda":
            function = parameters.get("FunctionName") or parameters.get("Resource", "*")
            is_name = ":" not in function and function != "*"
            return f"arn:aws:lambda:::function:{function}" if is_name else function
        case "sqs":
            name = parameters.get("QueueName") or parameters["QueueUrl"].rpartition("/")[2]
            return f"arn:aws:sqs:::{name}"
    return ARNS.get(call.service, "").format_map(parameters)


def _operation(call: Call) -> tuple[str, Json]:
    """Return the action of a call, such as `PutItem`, and its parameters by name.

    For API Gateway, the action is the HTTP method, and there are no parameters: its actions in IAM
    are `apigateway:POST` and so on.
    """
    if call.target:  # the JSON protocol, as of DynamoDB
        return call.target.rpartition(".")[2], json.loads(call.body)
    path = call.path.split("?")[0].rstrip("/")
    if not path:  # the query protocol, as of CloudFormation
        parameters = dict(parse_qsl(call.body.decode()))
        return parameters["Action"], parameters
    for name in LAMBDA.operation_names:  # the REST API of Lambda
        http = LAMBDA.operation_model(name).http
        pattern = re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", http["requestUri"].rstrip("/"))
        match = re.fullmatch(pattern, path)
        if match and http["method"] == call.method:
            in_path = {key: unquote(value) for key, value in match.groupdict().items()}
            in_body = json.loads(call.body or b"{}")
            return name, in_body | in_path
    return call.method, {}
