"""Moving in: subscriptions are exported, and imported by another stage, with what signs them."""

import json
import shlex
from pathlib import Path

import pytest

from tests.functional.test_ops import Ran, _environment  # noqa: F401 - serves the app
from tests.support.receiver import Receiver
from tests.support.subscribing import make_token, subscribe, subscriptions
from tests.support.world import KEY, SIGNING_SECRETS, Json, World, assert_has
from tools.export import export_subscriptions

GIVEN = "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"
SAME = (
    *("name", "tenant", "event_types", "filter", "target_url", "headers", "created_by"),
    *("body", "header_prefix"),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lines.jsonl"


@pytest.fixture
def world(world: World) -> World:
    world.restart(WEBHOOK_SIGNING_SECRETS=SIGNING_SECRETS[0])
    return world


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


def test_another_stage_has_the_same_subscriptions_with_the_secrets_of_their_receivers(
    world: World, target: Receiver, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = {"name": "CRM", "filter": {"a": [1]}, "headers": {"X-Api-Key": "k"}}
    made = [
        subscribe(world, target, "order.*", key=KEY, **described),
        subscribe(
            world, target, key=KEY, tenant="a", secret=GIVEN, body="payload", header_prefix="svix"
        ),
        subscribe(world, target, key=make_token(world, "b")),
    ]
    world.call("POST", f"{made[2].location}/disable")
    before = exported(world, capsys)
    write(file, *before)
    for answer in made:
        world.call("DELETE", answer.location)
    world.restart(WEBHOOK_SIGNING_SECRETS=SIGNING_SECRETS[1])

    checked, command = import_file(file).splitlines()

    assert checked == "3 of 3 lines: 3 can be imported"
    assert subscriptions(world, "*") == []
    assert Ran(*shlex.split(command)[-3:]).output == "3 of 3 lines: 3 made\n"
    after = exported(world, capsys)
    for was, line in zip(before, after, strict=True):
        assert_has(line, **{member: was[member] for member in SAME}, signs_with=[was["secret"]])
    assert [line["last_error"] for line in after] == [None, None, "disabled by hand"]

    enabled = [{**line, "disabled_at": None} for line in before]
    for lines in ([{**line, "secret": GIVEN} for line in enabled], enabled):
        write(file, *lines)
        assert import_file(file, "--go") == "3 of 3 lines: 3 there before\n"
        set_by_file = [(line["disabled_at"], line["secret"]) for line in exported(world, capsys)]
        assert set_by_file == [(None, line["secret"]) for line in lines]


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
    )
    expected = {
        "line 1: several secrets sign its pushes; the present one is taken",
        "b: made by the API key, not by the customer",
        "line 3: has the URL, types and tenant of line 1",
        "line 4: target_url: must be a URL, and of no Zap: ",
        "line 5: target_url: is required",
        "line 6: secret: must be whsec_ and base64",
        "line 7: headres: is not one of",
        "line 8: body: must be JSON",
        "line 9: 400: target_url: must be",  # says the API
        "line 10: signs_with: must be a list",
        "9 of 9 lines: 1 made, 8 refused",
    }

    said = import_file(file, "--go", status=1)

    assert {text for text in expected if text not in said} == set()
    for secret in (GIVEN[6:], "secret-path", "secret-query"):
        assert secret not in said
    assert [row["created_by"] for row in subscriptions(world, "*")] == ["acme"]
