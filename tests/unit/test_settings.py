import base64
import hashlib
import traceback
from pathlib import Path

import pytest

from chalicelib import deps, settings
from chalicelib.infra.addresses import AllowedHosts
from chalicelib.infra.errors import SettingsError
from chalicelib.settings import ApiKey, Scope, load

DIGEST = hashlib.sha256(b"a key").hexdigest()
OTHER_DIGEST = hashlib.sha256(b"another").hexdigest()
REQUIRED = {
    "EVENTS_TABLE_NAME": "events",
    "API_KEYS": f"acme:{DIGEST}",
    "INBOX_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/1/inbox",
    "INBOX_DLQ_URL": "http://127.0.0.1:5000/1/dlq",
    "SLOW_QUEUE_URL": "http://127.0.0.1:5000/1/slow",
    "ZAPIER_WEBHOOK_URL": "https://hooks.zapier.com/hooks/catch/1/2?x=y",
}


def whsec(content: bytes) -> str:
    return "whsec_" + base64.b64encode(content).decode()


PRODUCER = ApiKey("acme", DIGEST, frozenset({Scope.PRODUCE}))
BOTH = ApiKey("acme", OTHER_DIGEST, frozenset({Scope.PRODUCE, Scope.CONSUME}))
SHORTEST = whsec(b"a" * 24)
LONGEST = whsec(b"b" * 64)


def faults(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        load(environ)
    return str(raised.value).split("; ")


@pytest.mark.parametrize(
    "name, value, attribute, expected",
    [
        ("BACKOFF_BASE_SECONDS", "0.25", "backoff_base_seconds", 0.25),
        ("INLINE_PUSH_TIMEOUT_SECONDS", "8", "inline_push_timeout_seconds", 8),
        ("EVENT_TYPES", "order.created, a/b:c_d-e", "event_types", ["order.created", "a/b:c_d-e"]),
        ("SUSPENDED_TENANTS", "acme ,a/b", "suspended_tenants", ["acme", "a/b"]),
        (
            "ZAPIER_WEBHOOK_URL",
            "HTTPS://Example.com:8443/a?b=c",
            "webhook_url",
            "HTTPS://Example.com:8443/a?b=c",
        ),
        ("SUBSCRIPTION_HOSTS", "", "subscription_hosts", AllowedHosts(("hooks.zapier.com",))),
        (
            "SUBSCRIPTION_HOSTS",
            "Hooks.Test., .my.test",
            "subscription_hosts",
            AllowedHosts(("hooks.test", ".my.test")),
        ),
        ("API_KEYS", "", "api_keys", ()),
        (
            "API_KEYS",
            f"acme:{DIGEST.upper()}:produce, acme:{OTHER_DIGEST}",
            "api_keys",
            (PRODUCER, BOTH),
        ),
        (
            "WEBHOOK_SIGNING_SECRETS",
            f"{SHORTEST}  {LONGEST}",
            "signing_secrets",
            (b"a" * 24, b"b" * 64),
        ),
    ],
)
def test_a_variable_sets_its_field(name: str, value: str, attribute: str, expected: object) -> None:
    assert getattr(load(REQUIRED | {name: value}), attribute) == expected


SECONDS = ["x", "-1", "nan", "inf", "1e9", "1_0", "5 s", "99999"]
KEYS = [
    "acme",
    "acme:",
    f":{DIGEST}",
    f"acme:{DIGEST}0",
    f"acme:{'g' * 64}",
    f"acme:{DIGEST}:",
    f"acme:{DIGEST}:admin",
]
UNUSABLE = {
    "INBOX_QUEUE_URL": ["inbox-queue", "sqs://host/q", "https://"],
    "ZAPIER_WEBHOOK_URL": [
        "hooks.zapier.com/x",
        "ftp://example.com/x",
        "http://example.com/x",
        "http://10.0.0.1/",
        "https:///x",
        "http://localhost.example.com",
        "https://example.com/a b",
        "https://exämple.com/",
        "https://[::1/x",
        "https://user:word@example.com/",
        "https://example.com/x#y",
        "https://example.com:0/",
        "https://a:99999/",
        f"https://example.com/{'x' * 2029}",
        "http://127.0.0.1.example.com/",
        "http://128.0.0.1/",
    ],
    "API_KEYS": [
        *KEYS,
        f"acme:{DIGEST}:produce+",
        f"acme:{DIGEST}:produce:consume",
        f"ac\x00me:{DIGEST}",
    ],
    "WEBHOOK_SIGNING_SECRETS": [
        "bmV3",
        "whsec_",
        "whsec_é",
        whsec(b"a" * 23),
        whsec(b"a" * 65),
        SHORTEST + "!",
    ],
    "SUBSCRIPTION_HOSTS": ["https://example.com", "*.example.com", "a b", "a,,b", "."],
    "MAX_DELIVERY_ATTEMPTS": ["x", "0", "-1", "1.5", "1001", "٣"],
    "BACKOFF_CAP_SECONDS": SECONDS,
    "IN_PROCESS_WAIT_SECONDS": [*SECONDS, "901"],
    "PUSH_TIMEOUT_SECONDS": [*SECONDS, "0", "20.001"],
    "INLINE_PUSH_TIMEOUT_SECONDS": ["0", "8.1"],
    "EVENT_RETENTION_DAYS": ["0", "0.5", "3651"],
    "EVENT_TYPES": ["a b", "a,,b", "order.*", "ä", "a" * 129],
    "event_types.json": [
        "{",
        "[]",
        '{"a b": {}}',
        '{"a": null}',
        '{"a": {"desciption": "An order was placed."}}',
        '{"a": {"description": 5}}',
        '{"a": {}, "b": {}, "a": {}}',
        '{"triggers.event.failed": {}}',
        '{"a": {"description": "\\ud800"}}',
        '{"a": {"example": [1]}}',
        '{"a": {"example": {"total": NaN}}}',
        f'{{"a": {{"example": {{"text": "{"x" * 65_536}"}}}}}}',
        f'{{"a": {{"example": {{"a": {"[" * 10_000}{"]" * 10_000}}}}}}}',
        f'{{"a": {" " * 1024 * 1024}{{}}}}',  # over 1 MB
    ],
    "SUSPENDED_TENANTS": ["a b", "*"],
    "STAGE": ["my stage", "dev/x", "é", "x" * 33],
    "LOG_LEVEL": ["LOUD", "10"],
    "WORKER_MAX_CONCURRENCY": ["1", "1001"],
}


@pytest.mark.parametrize(
    "name, value", [(name, value) for name, values in UNUSABLE.items() for value in values]
)
def test_an_unusable_value_is_reported_with_what_it_should_be(name: str, value: str) -> None:
    (fault,) = faults(REQUIRED | {name: value})
    assert fault.startswith(f"{name} is unusable: it must ")


def test_a_misspelt_member_of_the_catalogue_is_named() -> None:
    (fault,) = faults(REQUIRED | {"event_types.json": '{"a": {"desciption": "An order."}}'})

    assert "in a: must not have 'desciption', and must be an object with a description" in fault


def test_a_folder_in_place_of_the_catalogue_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The catalogue is a file of the package, which other tests read meanwhile.
    monkeypatch.setattr(settings, "CATALOGUE", tmp_path)

    (fault,) = faults(REQUIRED)

    assert fault.endswith("is unusable: it must be a file (Is a directory)")


def test_secrets_are_not_repeated() -> None:
    secrets = {
        "ZAPIER_WEBHOOK_URL": "https://[S3CRET/x",
        "API_KEYS": "S3CRET",
        "WEBHOOK_SIGNING_SECRETS": "S3CRET",
    }
    with pytest.raises(SettingsError) as raised:
        load(REQUIRED | secrets)
    assert "S3CRET" not in "".join(traceback.format_exception(raised.value))
    shown = repr(load(REQUIRED | {"WEBHOOK_SIGNING_SECRETS": SHORTEST}))
    assert not [secret for secret in ("catch/1/2", DIGEST, "aaaa") if secret in shown]


@pytest.mark.parametrize(
    "attempts, cap, days", [("45", "1", 3), ("60", "3600", 4), ("20", "86400", 5)]
)
def test_retries_must_end_a_day_before_the_event_expires(
    attempts: str, cap: str, days: int
) -> None:
    variables = REQUIRED | {"MAX_DELIVERY_ATTEMPTS": attempts, "BACKOFF_CAP_SECONDS": cap}
    deps.load_checked(variables | {"EVENT_RETENTION_DAYS": str(days)})
    with pytest.raises(SettingsError, match="MAX_DELIVERY_ATTEMPTS and EVENT_RETENTION_DAYS "):
        deps.load_checked(variables | {"EVENT_RETENTION_DAYS": str(days - 1)})


def test_the_secret_completes_the_environment_and_is_read_once_if_needed() -> None:
    reads = []

    def read_secret(name: str) -> str:
        reads.append(name)
        lines = "".join(f"{name}={value}\n" for name, value in REQUIRED.items())
        return f"# settings\n\n{lines}MAX_DELIVERY_ATTEMPTS=7\nSTAGE=secret\n"

    load(REQUIRED | {"SETTINGS_SECRET": "s"}, read_secret)
    assert reads == []
    settings = load(
        {"SETTINGS_SECRET": "s", "STAGE": "dev", "EVENTS_TABLE_NAME": "mine", "API_KEYS": ""},
        read_secret,
    )
    assert reads == ["s"]
    assert settings.webhook_url == REQUIRED["ZAPIER_WEBHOOK_URL"]
    assert settings.max_delivery_attempts == 7
    assert (settings.stage, settings.events_table_name, settings.api_keys) == ("dev", "mine", ())
    with pytest.raises(SettingsError, match="API_KEYS is missing: it must be name:"):
        load({"SETTINGS_SECRET": "s"}, lambda _: "API_KEYS S3CRET")


def test_names_in_the_secret_that_are_no_settings_are_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    environ = {"SETTINGS_SECRET": "s", "PATH": "/bin", **REQUIRED}
    del environ["API_KEYS"]
    for _ in range(2):
        load(environ, lambda _: "API_KEYS=\nBACKOF_BASE_SECONDS=S3CRET\nA=1\n")

    [line] = caplog.messages
    assert line == "no such settings, ignored: A, BACKOF_BASE_SECONDS"
