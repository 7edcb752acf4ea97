"""`make deploy`, its last step: what Chalice cannot configure; `make package` has it in its template.

API Gateway answers some requests itself. Its own texts repeat the `Authorization` header: it takes an unknown path for
one that wants an AWS signature. The problem documents below replace them.
"""

import json
from typing import Any

import boto3
import click

from chalicelib.errors import AWS_ERRORS
from tools.resources import find_apis

API_STAGE = "api"  # Chalice's default
CALLS_PER_SECOND, BURST = 200, 400


def _response(status: int | None, title: str, detail: str, code: str) -> dict[str, Any]:
    """Return a gateway response, as OpenAPI and boto3 spell it. Without a status, each error keeps its own."""
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    known = {name: value for name, value in document.items() if value is not None}
    return {
        **({"statusCode": str(status)} if status else {}),
        "responseParameters": {"gatewayresponse.header.Content-Type": "'application/problem+json'"},
        "responseTemplates": {"application/json": json.dumps(known)},
    }


GATEWAY_SAYS = "API Gateway answered: $context.error.responseType"
NOT_FOUND = _response(404, "Not Found", "There is nothing at this path, or not with this method.", "not_found")
RESPONSES = {
    "MISSING_AUTHENTICATION_TOKEN": NOT_FOUND,
    "INVALID_SIGNATURE": NOT_FOUND,
    "THROTTLED": _response(429, "Too Many Requests", "Too many calls. Retry in a second.", "too_many_requests"),
    "DEFAULT_4XX": _response(None, "Request refused", GATEWAY_SAYS, "invalid_request"),
    "DEFAULT_5XX": _response(None, "Unavailable", GATEWAY_SAYS, "unavailable"),
}


@click.command()
@click.argument("stage")
def main(stage: str) -> None:
    """Set responses and throttling of the API that `chalice deploy` made, deploy it once more, and print its URL."""
    limits = {"rateLimit": CALLS_PER_SECOND, "burstLimit": BURST}
    patches = [
        {"op": "replace", "path": f"/*/*/throttling/{name}", "value": str(value)} for name, value in limits.items()
    ]
    try:
        gateway = boto3.client("apigateway")
        for api_id in find_apis(stage):
            for response_type, response in RESPONSES.items():
                gateway.put_gateway_response(restApiId=api_id, responseType=response_type, **response)
            gateway.create_deployment(restApiId=api_id, stageName=API_STAGE)
            gateway.update_stage(restApiId=api_id, stageName=API_STAGE, patchOperations=patches)
            region = gateway.meta.region_name
            print(f"export TRIGGERS_URL=https://{api_id}.execute-api.{region}.amazonaws.com/{API_STAGE}")
    except AWS_ERRORS as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
