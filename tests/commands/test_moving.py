"""Moving in: subscriptions are exported, and imported by another stage, with what signs them."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from werkzeug.datastructures import Headers

from chalicelib.infra.times import rfc3339
from tests.support.commands import Ran, paste
from tests.support.hooks import Hook
from tests.support.receiver import Receiver
from tests.support.world import KEY, Json, World, assert_has
from tools.api import Api, ApiCallError
from tools.export import export_subscriptions
from tools.receiver import signature_verdict

pytestmark = pytest.mark.usefixtures("served_app")

GIVEN = "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"
SAME = (
    *("name", "tenant", "event_types", "filter", "target_url", "headers", "created_by"),
    *("body", "header_prefix"),
)
NOT_TAKEN = ("http://crm.example", "https://me@crm.example", "https://crm.example/#a")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lines.jsonl"


def import_file(file: Path, *options: str, status: int = 0) -> str:
    """Return all that the import says."""
    ran = Ran("import-subscriptions", "--file", str(file), *options, status=status)
    return ran.output + ran.errors


def write(file: Path, *lines: Json | str) -> None:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join(texts), encoding="utf-8")


def exported(world: World, capsys: pytest.CaptureFixture[str]) -> list[Json]:
    capsys.readouterr()
    export_subscriptions(world.environ)
    lines = capsys.readouterr().out.splitlines()
    shown = [json.loads(line) for line in lines if line.startswith('{"subscription_id"')]
    return sorted(shown, key=lambda line: line["tenant"] or "")


def test_more_than_a_page_is_exported_and_known_to_the_receiver_of_make_run(
    world: World, target: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    hooks = [Hook(world, target, tenant=f"{number}") for number in range(101)]

    assert len(exported(world, capsys)) == 101
    hooks[-1].call("test")
    [push] = target.requests
    assert signature_verdict(Headers({**push.headers}), push.body) == "signature ok"


def test_an_export_that_aws_refuses_names_what_was_called(world: World) -> None:
    absent = {"EVENTS_TABLE_NAME": "absent"}
    for variables, action in (
        ({"SETTINGS_SECRET": "absent"}, "GetSecretValue"),
        (world.environ | absent, "Query"),
    ):
        with pytest.raises(click.ClickException, match=f"when calling the {action} operation: "):
            export_subscriptions(variables)


def test_another_stage_has_the_same_subscriptions_with_their_secrets(
    world: World, target: Receiver, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described: Json = {"name": "CRM", "filter": {"a": [1]}, "headers": {"X-Api-Key": "k"}}
    of_svix = {"tenant": "a", "secret": GIVEN, "body": "payload", "header_prefix": "svix"}
    hooks = [
        Hook(world, target, key=KEY, event_types=["order.*"], **described),
        Hook(world, target, key=KEY, **of_svix),
        Hook(world, target, key=world.make_token("b")),
    ]
    hooks[2].call("disable")
    before = exported(world, capsys)
    write(file, *before)
    for hook in hooks:
        hook.delete()

    told = import_file(file)
    checked = told.splitlines()[0]

    assert checked == "3 of 3 lines: 3 can be imported"
    assert world.subscriptions("*") == []
    *lines, summary = paste(told, "To import all").output.splitlines()
    assert summary == "3 of 3 lines: 2 made (active), 1 made (paused)"
    made_ids = {line["subscription_id"] for line in exported(world, capsys)}
    assert {line.partition(": ")[2].split()[0] for line in lines} == made_ids
    after = exported(world, capsys)
    for was, line in zip(before, after, strict=True):
        assert_has(line, **{member: was[member] for member in SAME}, signs_with=[was["secret"]])
    assert [line["last_error"] for line in after] == [None, None, "disabled by hand"]


def test_importing_again_changes_nothing_but_names_and_refuses_what_differs(
    world: World, target: Receiver, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"target_url": target.url, "tenant": tenant, "secret": GIVEN, "disabled_at": "until"}
        for tenant in "abcd"
    ]
    write(file, *lines)
    assert "4 made (paused)" in import_file(file, "--go")
    hooks = [Hook(world, target, tenant=tenant, key=KEY) for tenant in "bcd"]
    for hook in hooks:
        hook.enable()
    enabled, renewed, gone = hooks
    renewed.call("secret")
    gone.post(410)

    again = import_file(file, "--go", status=1)

    assert "4 lines: 1 there already (paused), 2 there already (active), 1 refused" in again
    assert "line 4: sub_" in again
    assert f"{enabled.id} is enabled, although its line is disabled\n" in again
    after = exported(world, capsys)
    assert [line["state"] for line in after] == ["paused", "active", "active", "disabled"]
    assert [line["secret"] == GIVEN for line in after] == [True, True, False, True]
    write(file, {**lines[1], "name": "New"}, {**lines[2], "body": "payload"})
    changed = import_file(file, "--go", status=1)
    assert "2 of 2 lines: 1 there already (active), 1 refused" in changed
    assert f"line 2: 409: {renewed.id} has this URL" in changed
    assert exported(world, capsys) == [after[0], {**after[1], "name": "New"}, *after[2:]]


def test_a_check_and_a_second_import_count_the_lines_that_are_there_already(
    world: World, target: Receiver, file: Path
) -> None:
    lines = [
        {"target_url": target.url, "tenant": "a"},
        {"target_url": target.url, "tenant": "b", "created_by": "tenant:b"},
        {"target_url": target.url, "disabled_at": "until"},
    ]
    write(file, *lines)
    assert "3 of 3 lines: 2 made (active), 1 made (paused)\n" in import_file(file, "--go")
    before = world.subscriptions("*")

    counted = "3 of 3 lines: 2 there already (active), 1 there already (paused)\n"
    assert "3 of 3 lines: 3 can be imported\n" in import_file(file)  # without a call
    assert counted in import_file(file, "--go")

    assert world.subscriptions("*") == before


@pytest.mark.parametrize(
    "cut_off, status", [(KeyboardInterrupt(), 130), (ApiCallError(503, "unavailable"), 1)]
)
def test_an_import_cut_off_between_make_and_pause_leaves_none_enabled(
    world: World,
    target: Receiver,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    cut_off: BaseException,
    status: int,
) -> None:
    write(
        file, {"target_url": target.url, "disabled_at": "until"}, {"target_url": f"{target.url}&b"}
    )
    call = Api.call
    cuts = [cut_off]

    def call_once(*arguments: Any, **options: Any) -> Any:
        if arguments[2].endswith("/disable") and cuts:
            raise cuts.pop()
        return call(*arguments, **options)

    # The command makes its client itself.
    monkeypatch.setattr(Api, "call", call_once)

    said = import_file(file, "--go", status=status)

    [only] = world.subscriptions("*")
    assert only["state"] == "paused"
    told = f"made, but not paused yet; trying once more: /subscriptions/{only['subscription_id']}/"
    assert told in said
    assert "\nTo import all: make import-subscriptions " in said


@pytest.mark.usefixtures("lost_response")
def test_a_line_is_paused_although_the_response_that_made_it_was_lost(
    world: World, target: Receiver, file: Path
) -> None:
    write(file, {"target_url": target.url, "disabled_at": "until"})

    assert "1 made (paused)" in import_file(file, "--go")
    assert [row["state"] for row in world.subscriptions("*")] == ["paused"]


def test_a_host_that_is_not_allowed_is_named_with_the_setting_whoever_makes_it(
    file: Path,
) -> None:
    line = {"target_url": "https://elsewhere.example/", "tenant": "a"}
    write(file, {**line, "tenant": "b"}, {**line, "created_by": "tenant:a"})

    said = import_file(file, "--go", status=1)

    assert said.count("allowed by SUBSCRIPTION_HOSTS") == 2


def test_a_receiver_that_is_switched_gets_once_what_the_old_system_did_not_deliver(
    world: World, target: Receiver
) -> None:
    hook = Hook(world, target, tenant="a")
    hook.call("disable")
    delivered_there, failed_there = hook.post(), hook.post()
    world.empty_inbox()  # which keeps both as failed
    world.sleep(60)
    disabled_there_at = rfc3339(world.clock())
    came_since = hook.post()
    world.empty_inbox()
    of_hook = f"--subscription-id={hook.id}"

    Ran("enable", of_hook, "--dismiss")
    Ran("replay", of_hook, f"--since={disabled_there_at}", "--go")
    Ran("send-to", of_hook, f"--event-id={failed_there.event['event_id']}")
    world.empty_inbox()
    Ran("recover", of_hook, "--go")  # or the customer, on the page
    world.settle()

    pushed = sorted(request.headers["webhook-id"] for request in target.requests)
    assert pushed == sorted([came_since.id, failed_there.id])
    assert delivered_there.status == "failed"


def test_what_goes_over_100_of_a_tenant_is_refused_before_it_is_made(
    world: World, target: Receiver, file: Path
) -> None:
    lines = [
        {"target_url": f"{target.url}&{number}", "tenant": "a", "event_types": ["x"]}
        for number in range(101)
    ]
    write(file, *lines, {**lines[0], "tenant": "b"})
    assert "102 of 102 lines: 101 can be imported, 1 refused" in import_file(file, status=1)
    first = Hook(world, target, path="&0", tenant="a", event_types=["x"], key=KEY).id
    text = json.dumps(world.item(first))
    for number in range(98):
        item = json.loads(text.replace(first, f"sub_{number:032}"))
        world.dynamodb.put_item(TableName=world.environ["EVENTS_TABLE_NAME"], Item=item)
    write(file, *lines[:3])
    refused = import_file(file, "--go", status=1)
    assert "line 3: goes over the 100 subscriptions that its tenant may have" in refused
    assert "1 there already (active), 1 made (active), 1 refused" in refused


def test_lines_that_are_refused_or_set_otherwise_are_named_without_what_is_secret(
    world: World, target: Receiver, file: Path
) -> None:
    world.restart(WEBHOOK_SIGNING_SECRETS="")
    good = {"target_url": target.url, "event_types": ["a", "b"], "secret": GIVEN}
    write(
        file,
        {**good, "tenant": "b", "created_by": "tenant:b", "signs_with": [GIVEN, "whsec_other"]},
        "",
        {**good, "tenant": "b", "event_types": ["b", "a"]},
        {**good, "target_url": "https://Hooks.zapier.com/hooks/standard/1/secret-path"},
        {"secret": GIVEN},
        {**good, "secret": GIVEN[:-2]},
        {**good, "headres": {"X-Api-Key": "secret-query"}},
        "{",
        {**good, "target_url": "https://elsewhere.example/secret-path"},
        {**good, "signs_with": 1},
        *({**good, "target_url": f"{url}/secret-path"} for url in NOT_TAKEN),
    )
    expected = {
        "line 1: several secrets sign its pushes; only the present one is imported",
        "b: made by the API key, not by the customer",
        "line 3: has the URL, types and tenant of line 1",
        "line 4: target_url: must be an https URL of at most",
        "line 5: target_url: is required",
        "line 6: secret: must be whsec_ and base64",
        "line 7: headres: is not one of",
        "line 8: body: must be JSON",
        "line 9: 400: target_url: must be",  # says the API
        "line 10: signs_with: must be a list",
        "12 of 12 lines: 1 made (active), 11 refused",
    }

    said = import_file(file, "--go", status=1)

    checked = import_file(file, status=1)
    assert "12 of 12 lines: 2 can be imported, 10 refused" in checked
    assert {text for text in expected if text not in said} == set()
    for secret in (GIVEN[6:], "secret-path", "secret-query"):
        assert secret not in said
    assert [row["created_by"] for row in world.subscriptions("*")] == ["acme"]
