"""What `make package` writes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.package import package

ROOT = Path(__file__).parent.parent.parent
CFN_LINT = Path(sys.executable).with_name("cfn-lint")
FUNCTIONS = {"APIHandler": "", "Worker": "-worker", "Sweep": "-sweep", "CheckDlq": "-check_dlq"}
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


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_is_named_after_its_stage_and_has_the_log_group_of_that_name(template: Any, function: str) -> None:
    name = template["Resources"][function]["Properties"]["FunctionName"]
    assert name == f"triggers-api-prod{FUNCTIONS[function]}"
    group = template["Resources"][LOGS[function]]["Properties"]
    assert (group["LogGroupName"], group["RetentionInDays"]) == (f"/aws/lambda/{name}", 30)


def test_the_worker_is_invoked_by_the_queue_of_the_template(template: Any) -> None:
    [source] = template["Resources"]["Worker"]["Properties"]["Events"].values()
    assert source["Properties"]["Queue"] == {"Fn::Sub": "${InboxQueue.Arn}"}
