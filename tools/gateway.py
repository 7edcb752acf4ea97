"""`make deploy`, its last step: what Chalice cannot configure; `make package` has it in its template.

API Gateway answers some requests itself. Its own texts repeat the `Authorization` header: it takes an unknown path for
one that wants an AWS signature. The problem documents below replace them.
"""

import json
import time
from typing import Any

import boto3
import click
from botocore.exceptions import ClientError

from chalicelib.errors import AWS_ERRORS, error_code
from tools.resources import find_apis, find_functions

API_STAGE = "api"  # Chalice's default
CALLS_PER_SECOND, BURST = 200, 400
PUBLIC_CALLS_PER_SECOND, PUBLIC_BURST = 20, 40  # of each path that needs no key
DEPLOYMENT_SECONDS = 5  # API Gateway takes one CreateDeployment in so many seconds for an account
DEPLOYMENT_TRIES = 10  # botocore tries each three times: a minute


def _throttling(resource_path: str, method: str, rate: int, burst: int) -> dict[str, Any]:
    limits = {"ThrottlingRateLimit": rate, "ThrottlingBurstLimit": burst}
    return {"ResourcePath": resource_path, "HttpMethod": method, **limits}


# As CloudFormation spells them: `~1` is a slash in a path, except that of the root.
METHOD_SETTINGS = [
    _throttling("/*", "*", CALLS_PER_SECOND, BURST),
    *(
        _throttling(path, "GET", PUBLIC_CALLS_PER_SECOND, PUBLIC_BURST)
        for path in ("/", "/~1health", "/~1openapi.json")
    ),
]


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
    """Configure functions and API that `chalice deploy` made, deploy the API once more, and print its URL."""
    try:
        lambda_client = boto3.client("lambda")
        for name in find_functions(stage):
            lambda_client.put_function_recursion_config(FunctionName=name, RecursiveLoop="Allow")
        gateway = boto3.client("apigateway")
        region = gateway.meta.region_name
        api_ids = find_apis(stage)
        if not api_ids:
            raise click.ClickException(f"there is no API triggers-api-{stage} in {region}: make deploy STAGE={stage}")
        for api_id in api_ids:
            gateway.update_stage(restApiId=api_id, stageName=API_STAGE, patchOperations=_patches())
            for response_type, response in RESPONSES.items():
                gateway.put_gateway_response(restApiId=api_id, responseType=response_type, **response)
            _deploy(api_id, gateway)
            print(f"export TRIGGERS_URL=https://{api_id}.execute-api.{region}.amazonaws.com/{API_STAGE}")
    except AWS_ERRORS as error:
        raise click.ClickException(str(error)) from None


def _patches() -> list[dict[str, str]]:
    """Return METHOD_SETTINGS as UpdateStage spells them."""
    return [
        {"op": "replace", "path": f"{path}/throttling/{name}", "value": str(settings[key])}
        for settings in METHOD_SETTINGS
        for path in [f"{settings['ResourcePath']}/{settings['HttpMethod']}".replace("//", "/~1/")]
        for name, key in (("rateLimit", "ThrottlingRateLimit"), ("burstLimit", "ThrottlingBurstLimit"))
    ]


def _deploy(api_id: str, gateway: Any) -> None:
    """Create a deployment; while API Gateway throttles it, wait and try again, for a minute."""
    for tries_left in reversed(range(DEPLOYMENT_TRIES)):
        try:
            gateway.create_deployment(restApiId=api_id, stageName=API_STAGE)
            return
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 429 or not tries_left:
                raise
            print(f"API Gateway takes one deployment in 5 seconds ({error_code(error)}): trying again", flush=True)
            time.sleep(DEPLOYMENT_SECONDS)


if __name__ == "__main__":
    main()
