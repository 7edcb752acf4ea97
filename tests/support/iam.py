"""What IAM asks of a policy for calls that were made to the emulated AWS.

Resources and condition keys are those of AWS's Service Authorization Reference.
"""

import json
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

import botocore.session

from tests.support.ministack import Call
from tests.support.world import Json

HERE = "us-east-1:000000000000"
# IAM has no actions for batches of SQS.
BATCHES = {"SendMessageBatch": "SendMessage", "DeleteMessageBatch": "DeleteMessage"}
OPERATORS: Any = {"ArnLike": fnmatchcase, "StringEquals": str.__eq__}
LAMBDA = botocore.session.get_session().get_service_model("lambda")


class Request(NamedTuple):
    """An action on a resource, whose ARN is empty if the call does not name it, with condition
    keys.
    """

    action: str
    resource: str
    context: Mapping[str, str] = MappingProxyType({})


def is_allowed(policy: Json, request: Request) -> bool:
    return any(_allows(statement, request) for statement in policy["Statement"])


def _allows(statement: Json, request: Request) -> bool:
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


def requests_of(call: Call, functions: dict[str, str]) -> Iterator[Request]:
    """Yield what IAM is asked for a call. `functions` are the ARNs of functions by the id of their
    event source.
    """
    match call.service:
        case "sts":  # needs no permission
            return
        case "apigateway":
            path = unquote(call.path.split("?")[0])
            yield Request(f"apigateway:{call.method}", f"arn:aws:apigateway:us-east-1::{path}")
        case "lambda":
            yield from _of_lambda(call, functions)
        case service:
            name, members = _operation(call)
            yield Request(f"{service}:{BATCHES.get(name, name)}", _resource(service, members))


def _operation(call: Call) -> tuple[str, Json]:
    """Return name and members of a call of the query and the JSON protocol."""
    if call.target:
        return call.target.rpartition(".")[2], json.loads(call.body)
    members = {name: values[0] for name, values in parse_qs(call.body.decode()).items()}
    return members["Action"], members


def _resource(service: str, members: Json) -> str:
    match service:
        case "cloudformation":
            stack = members.get("StackName", "")
            is_arn = not stack or stack.startswith("arn:")
            return stack if is_arn else f"arn:aws:cloudformation:{HERE}:stack/{stack}/id"
        case "dynamodb":
            index = f"/index/{members['IndexName']}" if "IndexName" in members else ""
            return f"arn:aws:dynamodb:{HERE}:table/{members['TableName']}{index}"
        case "events":
            return f"arn:aws:events:{HERE}:rule/{members.get('Rule') or members['Name']}"
        case "iam":
            return f"arn:aws:iam::000000000000:role/{members['RoleName']}"
        case "secretsmanager":
            return f"arn:aws:secretsmanager:{HERE}:secret:{members['SecretId']}-AbCdEf"
        case "sns":
            return members["TopicArn"]  # type: ignore[no-any-return]
        case "sqs":
            name = members.get("QueueName") or members["QueueUrl"].rpartition("/")[2]
            return f"arn:aws:sqs:{HERE}:{name}"
    raise AssertionError(f"another service is called: {service}")


def _of_lambda(call: Call, functions: dict[str, str]) -> Iterator[Request]:
    """Yield the action of Lambda, and that of IAM which goes with a role."""
    name, members = _lambda_operation(call)
    function = members.get("FunctionName") or members.get("Resource", "")
    if function and not function.startswith("arn:"):
        function = f"arn:aws:lambda:{HERE}:function:{function}"
    action = f"lambda:{name}"
    if name in ("ListFunctions", "ListEventSourceMappings"):
        yield Request(action, "*")
    elif "UUID" in members:
        source = f"arn:aws:lambda:{HERE}:event-source-mapping:{members['UUID']}"
        yield Request(action, source, {"lambda:FunctionArn": functions[members["UUID"]]})
    elif name == "CreateEventSourceMapping":
        yield Request(action, "*", {"lambda:FunctionArn": function})
    else:
        yield Request(action, function)
    if "Role" in members:
        passed_to = {"iam:PassedToService": "lambda.amazonaws.com"}
        yield Request("iam:PassRole", members["Role"], passed_to)


def _lambda_operation(call: Call) -> tuple[str, Json]:
    path = call.path.split("?")[0].rstrip("/")
    for name in LAMBDA.operation_names:
        http = LAMBDA.operation_model(name).http
        pattern = re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", http["requestUri"].rstrip("/"))
        found = re.fullmatch(pattern, path)
        if found and http["method"] == call.method:
            members = json.loads(call.body or b"{}")
            named = {key: unquote(value) for key, value in found.groupdict().items()}
            return name, members | named
    raise AssertionError(f"no operation of Lambda: {call.method} {path}")
