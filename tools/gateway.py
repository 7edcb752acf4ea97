"""What Chalice leaves to others at API Gateway: a limit on the rate of calls, and a log of each of them."""

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import boto3
from botocore.exceptions import ClientError

from tools import package
from tools import stage as stages

ACCESS_LOG_ROLE = "triggers-api-access-logs"
TRIES, WAIT_SECONDS = 20, 3.0
# As AWS's own policy AmazonAPIGatewayPushToCloudWatchLogs has them.
ACCESS_LOG_ACTIONS = (
    "logs:CreateLogGroup",
    "logs:CreateLogStream",
    "logs:DescribeLogGroups",
    "logs:DescribeLogStreams",
    "logs:PutLogEvents",
    "logs:GetLogEvents",
    "logs:FilterLogEvents",
)


def set_up(api_id: str, stage: str, say: Callable[[str], None]) -> None:
    """Limit the rate of calls, and log each of them, in the ways that the packaged template does."""
    properties = package.overlay()["Resources"]["RestAPI"]["Properties"]
    (limits,) = properties["MethodSettings"]
    settings = {
        "/*/*/throttling/rateLimit": str(limits["ThrottlingRateLimit"]),
        "/*/*/throttling/burstLimit": str(limits["ThrottlingBurstLimit"]),
    }
    _update_stage(api_id, settings)
    _delete_old_deployments(api_id)
    for attempt in range(TRIES):
        try:
            _let_api_gateway_log(say)
            _update_stage(api_id, _access_logs(stage, properties["AccessLogSetting"]["Fn::If"][1]["Format"]))
        except ClientError as error:  # what was just made takes a while to be known everywhere
            if attempt == TRIES - 1 or error.response["Error"]["Code"] != "BadRequestException":
                say(f"access logs stay off, run it again to try again: {error}")
                return
            time.sleep(WAIT_SECONDS)
        else:
            return


def _delete_old_deployments(api_id: str) -> None:
    """Delete all deployments but those in use, which API Gateway refuses to: Chalice makes one each time."""
    gateway = boto3.client("apigateway")
    for page in gateway.get_paginator("get_deployments").paginate(restApiId=api_id):
        for deployment in page["items"]:
            with contextlib.suppress(gateway.exceptions.BadRequestException):
                gateway.delete_deployment(restApiId=api_id, deploymentId=deployment["id"])


def _access_logs(stage: str, form: str) -> dict[str, str]:
    name = stages.access_log_group(stage)
    groups = boto3.client("logs").describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    (arn,) = [group["arn"] for group in groups if group["logGroupName"] == name]
    return {"/accessLogSettings/destinationArn": arn.removesuffix(":*"), "/accessLogSettings/format": form}


def _update_stage(api_id: str, settings: dict[str, str]) -> None:
    boto3.client("apigateway").update_stage(
        restApiId=api_id,
        stageName=stages.API_STAGE,
        patchOperations=[{"op": "replace", "path": path, "value": value} for path, value in settings.items()],
    )


def _let_api_gateway_log(say: Callable[[str], None]) -> None:
    """See that API Gateway has its role for logs, one for all of the account and region."""
    gateway, iam = boto3.client("apigateway"), boto3.client("iam")
    if gateway.get_account().get("cloudwatchRoleArn"):
        return
    trust = {"Effect": "Allow", "Principal": {"Service": "apigateway.amazonaws.com"}, "Action": "sts:AssumeRole"}
    allowed = {"Effect": "Allow", "Action": ACCESS_LOG_ACTIONS, "Resource": "*"}
    with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_role(RoleName=ACCESS_LOG_ROLE, AssumeRolePolicyDocument=_policy(trust))
    iam.put_role_policy(RoleName=ACCESS_LOG_ROLE, PolicyName="logs", PolicyDocument=_policy(allowed))
    arn = iam.get_role(RoleName=ACCESS_LOG_ROLE)["Role"]["Arn"]
    gateway.update_account(patchOperations=[{"op": "replace", "path": "/cloudwatchRoleArn", "value": arn}])
    say(f"role {ACCESS_LOG_ROLE}: API Gateway writes the logs of this account and region with it")


def _policy(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
