"""The last step of `make deploy`: configure what Chalice cannot configure. The template of `make
package` has the same configuration.

API Gateway answers some requests itself. Its own error texts can repeat the `Authorization` header,
because it treats a request for an unknown path as one with an AWS signature. The problem documents
below replace its texts.
"""

import json
import re
from collections.abc import Iterable

import boto3
import click
from botocore.config import Config

from chalicelib.infra.errors import AWS_ERRORS
from chalicelib.infra.parsing import Json
from tools.configuration import api_stage_name
from tools.function_changes import DESCRIPTION, describe_catalogue
from tools.stage import await_functions, find_apis, find_functions, tags_of

# WARN leaves out the START, END and REPORT lines of each invocation.
LOGGING = {"LogFormat": "JSON", "SystemLogLevel": "WARN"}
# EventBridge invokes functions asynchronously. With retries, the runs of hours would come at once
# after a shortage of concurrency.
ONCE = {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60}
# The limits of each method that needs no key: calls a second, and calls at once (the burst).
PUBLIC = (20, 40)
# Such limits by path and method, as API Gateway writes them: `~1` is a slash in the path. Calls
# without a key count, too.
LIMITS = {
    "*/*": (200, 400),
    "~1events~1batch/POST": (20, 40),  # of up to ten events each
    "~1/GET": PUBLIC,
    "~1health/GET": PUBLIC,
    "~1health/HEAD": PUBLIC,
    "~1openapi.json/GET": PUBLIC,
    "~1listen.py/GET": PUBLIC,
}
# API Gateway takes one CreateDeployment in five seconds for an account. The last of these tries is
# a minute after the first.
RETRIES = Config(retries={"mode": "standard", "total_max_attempts": 10})


def _response(status: int, title: str, detail: str, code: str, *, retry_after: str = "") -> Json:
    """Return the response with which API Gateway answers a request itself, as OpenAPI and boto3
    spell it: a problem document (RFC 9457).

    :param detail: A sentence for people. It may have a variable of API Gateway, such as
        `$context.error.responseType`.
    :param code: The member `code` of the document, by which programs recognize the problem.
    :param retry_after: The seconds in the header Retry-After; empty: there is no such header.
    """
    document: Json = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
    }
    # API Gateway writes a fixed value of a header in quotes.
    parameters = {"gatewayresponse.header.Content-Type": "'application/problem+json'"}
    if retry_after:
        parameters["gatewayresponse.header.Retry-After"] = f"'{retry_after}'"
    return {
        "statusCode": str(status),
        "responseParameters": parameters,
        "responseTemplates": {"application/json": json.dumps(document)},
    }


GATEWAY_SAYS = "API Gateway answered: $context.error.responseType"
NOT_FOUND = _response(
    404, "Not Found", "There is nothing at this path, or not with this method.", "not_found"
)
FORBIDDEN = _response(403, "Forbidden", GATEWAY_SAYS, "forbidden")
RESPONSES = {
    "MISSING_AUTHENTICATION_TOKEN": NOT_FOUND,
    "INVALID_SIGNATURE": NOT_FOUND,
    "THROTTLED": _response(
        429,
        "Too Many Requests",
        "Too many calls. Retry in a second.",
        "too_many_requests",
        retry_after="1",
    ),
    "REQUEST_TOO_LARGE": _response(
        413, "Content Too Large", "The body has over 10 MB.", "payload_too_large"
    ),
    "ACCESS_DENIED": FORBIDDEN,
    "WAF_FILTERED": FORBIDDEN,
    "INTEGRATION_TIMEOUT": _response(
        504,
        "Gateway Timeout",
        "The call took too long, and may have taken effect. Retry in a second.",
        "unavailable",
        retry_after="1",
    ),
    # Lambda has no concurrency left for the call, which API Gateway answers with 500.
    "INTEGRATION_FAILURE": _response(
        503,
        "Unavailable",
        "Lambda did not take the call. Retry in a second.",
        "unavailable",
        retry_after="1",
    ),
    # All others get one status, because a template has no variable for their own.
    "DEFAULT_4XX": _response(400, "Bad Request", GATEWAY_SAYS, "invalid_request"),
    "DEFAULT_5XX": _response(500, "Internal Server Error", GATEWAY_SAYS, "unavailable"),
}


DISABLED = """\
the SQS trigger of {name} is disabled: the messages in its queue wait. To enable it:
  aws lambda update-event-source-mapping --enabled --uuid {uuid}"""


def warn_of_disabled_triggers(functions: Iterable[str]) -> None:
    """Print each disabled SQS trigger of some functions, and the command that enables it. An
    emergency stop disables triggers.

    :param functions: The names of the functions.
    """
    pages = boto3.client("lambda").get_paginator("list_event_source_mappings").paginate()
    for trigger in pages.search("EventSourceMappings[?starts_with(State, 'Disabl')]"):
        name = trigger["FunctionArn"].rpartition(":")[2]
        if name in functions:
            print(DISABLED.format(name=name, uuid=trigger["UUID"]))


@click.command()
@click.argument("stage")
def main(stage: str) -> None:
    """Configure the functions and the API that `chalice deploy` made, deploy the API once more, and
    print its URL, then each SQS trigger that is disabled.
    """
    patches = []
    for method, (rate, burst) in LIMITS.items():
        for name, value in (("rateLimit", rate), ("burstLimit", burst)):
            path = f"/{method}/throttling/{name}"
            patches.append({"op": "replace", "path": path, "value": str(value)})
    api_stage = api_stage_name(stage)
    try:
        await_functions(stage)
        functions = boto3.client("lambda")
        gateway = boto3.client("apigateway", config=RETRIES)
        deployed = find_functions(stage)
        for name, function in deployed.items():
            functions.put_function_recursion_config(FunctionName=name, RecursiveLoop="Allow")
            functions.put_function_event_invoke_config(FunctionName=name, **ONCE)
            description = function["Description"]
            # A description that was written by hand, and so does not match, is kept.
            if re.fullmatch(DESCRIPTION, description):
                description = describe_catalogue()
            functions.update_function_configuration(
                FunctionName=name, LoggingConfig=LOGGING, Description=description
            )
        region = gateway.meta.region_name
        api_ids = find_apis(stage)
        if not api_ids:
            raise click.ClickException(
                f"there is no API triggers-api-{stage} in {region}; to create it: make deploy "
                f"STAGE={stage}"
            )
        print(
            "deploying the API again; this can take a minute, because API Gateway takes one "
            "deployment in 5 seconds",
            flush=True,
        )
        for api_id in api_ids:
            gateway.update_stage(restApiId=api_id, stageName=api_stage, patchOperations=patches)
            for response_type, response in RESPONSES.items():
                gateway.put_gateway_response(
                    restApiId=api_id, responseType=response_type, **response
                )
            gateway.create_deployment(restApiId=api_id, stageName=api_stage)
            arn = f"arn:{gateway.meta.partition}:apigateway:{region}::/restapis/{api_id}"
            for tagged in (arn, f"{arn}/stages/{api_stage}"):
                gateway.tag_resource(resourceArn=tagged, tags=tags_of(stage))
            host = f"{api_id}.execute-api.{region}.amazonaws.com"
            print(f"export TRIGGERS_URL=https://{host}/{api_stage}")
        warn_of_disabled_triggers(deployed)
    except AWS_ERRORS as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
