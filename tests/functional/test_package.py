"""What `make package` writes."""

import json
import os
import py_compile
import subprocess
import sys
import zipfile
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import lint

from tools import package
from tools.deployed import packageable

ROOT = Path(__file__).parent.parent.parent
FUNCTIONS = ("APIHandler", "Worker", "Sweep", "CheckDlq")
MOST_ZIPPED_BYTES = 170_000  # 1.3 times what urllib3 alone would be


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Give the template of the stage prod, and the folder where it lies."""
    out = tmp_path_factory.mktemp("package")
    program = "import sys; from pathlib import Path; from tools import package as p; "
    program += "p.package('prod', {'MAX_DELIVERY_ATTEMPTS': '7', 'METRICS_NAMESPACE': 'Shop'}, Path(sys.argv[1]))"
    environ = {**os.environ, "STAGE": "prod", "AWS_DEFAULT_REGION": "eu-west-1"}
    subprocess.run([sys.executable, "-c", program, out], cwd=ROOT, env=environ, check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "sam.json").read_text()), out


def properties(made: tuple[dict[str, Any], Path], logical_id: str) -> dict[str, Any]:
    found: dict[str, Any] = made[0]["Resources"][logical_id]["Properties"]
    return found


def test_the_package_is_clean(made: tuple[dict[str, Any], Path]) -> None:
    assert [str(match) for match in lint(json.dumps(made[0]))] == []


def test_the_zip_stays_small(made: tuple[dict[str, Any], Path]) -> None:
    assert (made[1] / "deployment.zip").stat().st_size < MOST_ZIPPED_BYTES


def test_lambda_need_not_compile_what_is_large(made: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(made[1] / "deployment.zip") as package_file:
        package_file.extractall(tmp_path)
    command = [sys.executable, "-v", "-c", "import app"]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}

    told = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True).stderr

    for source in ("chalice/app.py", "app.py", "chalicelib/delivery.py"):
        assert f"# code object from '{tmp_path / cache_from_source(source)}'" in told


def test_what_python_left_beside_the_sources_is_not_packaged() -> None:
    py_compile.compile(str(ROOT / "chalicelib" / "auth.py"))
    with packageable() as project, packageable() as again:
        compiled, same = (
            [file.read_bytes() for file in sorted(each.glob("**/__pycache__/*"))] for each in (project, again)
        )
    assert compiled == same
    assert len(compiled) >= 3
    assert {content[4:8] for content in compiled} == {b"\x03\0\0\0"}  # checked by the hash of the source (PEP 552)


def test_the_worker_may_send_messages_to_the_queue_that_starts_it(made: tuple[dict[str, Any], Path]) -> None:
    assert properties(made, "Worker")["RecursiveLoop"] == "Allow"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_is_told_everything_that_it_needs(made: tuple[dict[str, Any], Path], function: str) -> None:
    variables = properties(made, function)["Environment"]["Variables"]

    literal = {name: value for name, value in variables.items() if isinstance(value, str)}
    references = {name: value["Ref"] for name, value in variables.items() if isinstance(value, dict)}

    assert literal == {"STAGE": "prod", "MAX_DELIVERY_ATTEMPTS": "7"}
    assert references == {
        "EVENTS_TABLE_NAME": "EventsTable",
        "INBOX_QUEUE_URL": "InboxQueue",
        "INBOX_DLQ_URL": "InboxDLQ",
        "ZAPIER_WEBHOOK_URL": "ZapierWebhookUrl",
        "API_KEYS": "ApiKeys",
        "WEBHOOK_SIGNING_SECRETS": "WebhookSigningSecrets",
        "METRICS_NAMESPACE": "MetricsNamespace",
    }
    assert set(references.values()) <= {*made[0]["Resources"], *made[0]["Parameters"]}


@pytest.mark.parametrize("parameter", ["ZapierWebhookUrl", "ApiKeys", "WebhookSigningSecrets"])
def test_a_secret_is_never_shown(made: tuple[dict[str, Any], Path], parameter: str) -> None:
    assert made[0]["Parameters"][parameter]["NoEcho"] is True


def test_the_template_is_for_its_own_stage(made: tuple[dict[str, Any], Path]) -> None:
    assert made[0]["Parameters"]["Stage"]["AllowedValues"] == ["prod"]
    assert made[0]["Parameters"]["MetricsNamespace"]["Default"] == "Shop"


@pytest.mark.parametrize("role", ["ApiHandlerRole", "WorkerRole", "SweepRole", "CheckDlqRole"])
def test_a_role_refers_to_what_the_template_makes(made: tuple[dict[str, Any], Path], role: str) -> None:
    (policy,) = properties(made, role)["Policies"]
    resources = [arn for statement in policy["PolicyDocument"]["Statement"] for arn in statement["Resource"]]

    assert all(set(arn) == {"Fn::Sub"} for arn in resources)
    assert "*" not in json.dumps(resources)


def test_the_worker_is_fed_by_the_queue_of_the_template(made: tuple[dict[str, Any], Path]) -> None:
    (source,) = properties(made, "Worker")["Events"].values()
    assert source["Properties"]["Queue"] == {"Fn::Sub": "${InboxQueue.Arn}"}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_logs_are_kept_for_a_month(made: tuple[dict[str, Any], Path], function: str) -> None:
    group = properties(made, f"{function}Logs")
    name = properties(made, function)["FunctionName"]["Fn::Sub"]

    assert made[0]["Resources"][function]["DependsOn"] == f"{function}Logs"
    assert group == {"LogGroupName": {"Fn::Sub": f"/aws/lambda/{name}"}, "RetentionInDays": 30}


def test_the_rate_of_calls_is_limited(made: tuple[dict[str, Any], Path]) -> None:
    (limits,) = properties(made, "RestAPI")["MethodSettings"]
    assert (limits["ResourcePath"], limits["HttpMethod"]) == ("/*", "*")
    assert 0 < limits["ThrottlingRateLimit"] <= limits["ThrottlingBurstLimit"]


def test_what_api_gateway_answers_by_itself_has_the_form_of_every_other_error(
    made: tuple[dict[str, Any], Path],
) -> None:
    answers = properties(made, "RestAPI")["DefinitionBody"]["x-amazon-apigateway-gateway-responses"]

    assert {"MISSING_AUTHENTICATION_TOKEN", "THROTTLED", "DEFAULT_4XX", "DEFAULT_5XX"} <= answers.keys()
    for answer in answers.values():
        document = json.loads(answer["responseTemplates"]["application/json"])
        assert {"type", "title", "detail"} <= document.keys()
        # A status would be that of every type which has no answer of its own.
        assert str(document.get("status", "")) == answer.get("statusCode", "")
        assert answer["responseParameters"]["gatewayresponse.header.Content-Type"] == "'application/problem+json'"


def test_a_value_that_would_not_start_is_not_packaged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAX_DELIVERY_ATTEMPTS", "many")

    assert package.main("qa") == 1

    said = capsys.readouterr().err
    assert "MAX_DELIVERY_ATTEMPTS is unusable" in said
    assert "STAGE is unusable: .chalice/config.json knows dev and prod" in said
