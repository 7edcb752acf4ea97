"""What `make package` writes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import gateway
from tools.package import package
from tools.resources import FUNCTION_SUFFIXES

ROOT = Path(__file__).parent.parent.parent
CFN_LINT = Path(sys.executable).with_name("cfn-lint")
LOGS = {"APIHandler": "ApiLogs", "Worker": "WorkerLogs", "Sweep": "SweepLogs", "CheckDlq": "CheckDlqLogs"}


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("package")
    package("prod", out)
    assert (out / "deployment.zip").is_file()
    return out / "sam.json"


@pytest.fixture(scope="module")
def template(packaged: Path) -> Any:
    return json.loads(packaged.read_text())


def test_cfn_lint_finds_no_fault_in_functions_and_resources(packaged: Path) -> None:
    linted = subprocess.run([CFN_LINT, packaged], capture_output=True, text=True, check=False)

    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_template_is_for_its_own_stage(template: Any) -> None:
    assert template["Parameters"]["Stage"]["AllowedValues"] == ["prod"]


def test_a_creation_that_failed_leaves_no_table_behind_and_a_deletion_does(template: Any) -> None:
    table = template["Resources"]["EventsTable"]
    assert (table["DeletionPolicy"], table["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")


def test_api_gateway_answers_with_problem_documents_that_do_not_repeat_the_request(template: Any) -> None:
    responses = template["Resources"]["RestAPI"]["Properties"]["DefinitionBody"][
        "x-amazon-apigateway-gateway-responses"
    ]
    assert responses.keys() >= {"MISSING_AUTHENTICATION_TOKEN", "DEFAULT_4XX", "DEFAULT_5XX"}
    for response in responses.values():
        assert response["responseParameters"] == {"gatewayresponse.header.Content-Type": "'application/problem+json'"}
        document = json.loads(response["responseTemplates"]["application/json"])
        assert document["type"] == "about:blank"
        assert document.keys() >= {"title", "detail", "code"}
        assert document.get("status") == (int(response["statusCode"]) if "statusCode" in response else None)
        assert "$context.error.message" not in document["detail"]


def test_calls_are_throttled(template: Any) -> None:
    api = template["Resources"]["RestAPI"]["Properties"]
    [settings] = api["MethodSettings"]
    assert (settings["ResourcePath"], settings["HttpMethod"]) == ("/*", "*")
    assert settings["ThrottlingRateLimit"] == gateway.CALLS_PER_SECOND


@pytest.mark.parametrize("parameter", ["ZapierWebhookUrl", "ApiKeys", "WebhookSigningSecrets"])
def test_secrets_are_parameters_that_are_not_shown(template: Any, parameter: str) -> None:
    assert template["Parameters"][parameter]["NoEcho"] is True


@pytest.mark.parametrize(
    ("function", "file"),
    [("APIHandler", "api"), ("Worker", "worker"), ("Sweep", "sweep"), ("CheckDlq", "check-dlq")],
)
def test_a_function_has_a_role_of_its_own_with_its_policy_file(template: Any, function: str, file: str) -> None:
    resources = template["Resources"]
    role, _ = resources[function]["Properties"]["Role"]["Fn::GetAtt"]
    [policy] = resources[role]["Properties"]["Policies"]
    assert policy["PolicyDocument"] == json.loads((ROOT / f".chalice/policies/prod/{file}.json").read_text())


@pytest.mark.parametrize("function", FUNCTION_SUFFIXES)
def test_a_function_is_named_after_its_stage_and_has_the_log_group_of_that_name(template: Any, function: str) -> None:
    name = template["Resources"][function]["Properties"]["FunctionName"]
    assert name == f"triggers-api-prod{FUNCTION_SUFFIXES[function]}"
    group = template["Resources"][LOGS[function]]["Properties"]
    assert (group["LogGroupName"], group["RetentionInDays"]) == (f"/aws/lambda/{name}", 30)


def test_the_worker_is_invoked_by_the_queue_of_the_template(template: Any) -> None:
    [source] = template["Resources"]["Worker"]["Properties"]["Events"].values()
    assert source["Properties"]["Queue"] == {"Fn::Sub": "${InboxQueue.Arn}"}
