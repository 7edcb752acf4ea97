import hashlib
import traceback
from collections.abc import Iterable

import pytest

from chalicelib.auth import ApiKey, Scope
from chalicelib.settings import EventSource, SettingsError, load, load_event_source

DIGEST, OTHER_DIGEST = hashlib.sha256(b"a key").hexdigest(), hashlib.sha256(b"another").hexdigest()
BOTH = frozenset(Scope)
REQUIRED = {
    "EVENTS_TABLE_NAME": "triggers-api-dev-events",
    "INBOX_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/1/triggers-api-dev-inbox-queue",
    "INBOX_DLQ_URL": "http://127.0.0.1:5000/1/triggers-api-dev-inbox-dlq",
    "ZAPIER_WEBHOOK_URL": "https://hooks.zapier.com/hooks/catch/1/2?x=y",
    "API_KEYS": f"acme:{DIGEST}",
}


def faults(environ: dict[str, str]) -> list[str]:
    """Return what is wrong with these variables, fault by fault, as the one line says it."""
    with pytest.raises(SettingsError) as stopped:
        load(environ)
    assert "\n" not in str(stopped.value)
    return str(stopped.value).split("; ")


def names(found: Iterable[str]) -> list[str]:
    assert all(" it must be " in fault for fault in found)
    return [fault.split(" ")[0] for fault in found]


def test_what_is_not_set_has_its_default_and_secrets_do_not_show() -> None:
    table, inbox, dlq, *_ = REQUIRED.values()
    assert repr(load(REQUIRED)) == (
        f"Settings(events_table_name='{table}', inbox_queue_url='{inbox}', inbox_dlq_url='{dlq}', "
        "max_delivery_attempts=20, backoff_base_seconds=1, backoff_cap_seconds=3600, in_process_wait_seconds=8, "
        "push_timeout_seconds=10, push_connect_timeout_seconds=5, inline_push_timeout_seconds=5, breaker_failures=3, "
        "breaker_open_seconds=30, event_retention_days=30, stage='dev', log_level='INFO', "
        "metrics_namespace='TriggersApi')"
    )


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("MAX_DELIVERY_ATTEMPTS", "1", "max_delivery_attempts", 1),
        ("BACKOFF_BASE_SECONDS", "0.25", "backoff_base_seconds", 0.25),
        ("BACKOFF_CAP_SECONDS", "7.5", "backoff_cap_seconds", 7.5),
        ("IN_PROCESS_WAIT_SECONDS", "0", "in_process_wait_seconds", 0),
        ("PUSH_TIMEOUT_SECONDS", "20", "push_timeout_seconds", 20),
        ("PUSH_CONNECT_TIMEOUT_SECONDS", "20", "push_connect_timeout_seconds", 20),
        ("INLINE_PUSH_TIMEOUT_SECONDS", "2.5", "inline_push_timeout_seconds", 2.5),
        ("INLINE_PUSH_TIMEOUT_SECONDS", "15", "inline_push_timeout_seconds", 10),  # never above the push's own
        ("BREAKER_FAILURES", "1", "breaker_failures", 1),
        ("BREAKER_OPEN_SECONDS", "0.5", "breaker_open_seconds", 0.5),
        ("EVENT_RETENTION_DAYS", "365", "event_retention_days", 365),
        ("STAGE", "prod-eu", "stage", "prod-eu"),
        ("LOG_LEVEL", "debug", "log_level", "DEBUG"),
        ("METRICS_NAMESPACE", "My/Space.1", "metrics_namespace", "My/Space.1"),
        ("API_KEYS", REQUIRED["API_KEYS"], "api_keys", (ApiKey("acme", DIGEST, BOTH),)),
        ("API_KEYS", "", "api_keys", ()),  # closed on purpose: every call is refused
        (
            "API_KEYS",
            f"acme:{DIGEST.upper()}:produce, acme:{OTHER_DIGEST}:consume+produce,b-2:{DIGEST}:consume",
            "api_keys",
            (
                ApiKey("acme", DIGEST, frozenset({Scope.PRODUCE})),
                ApiKey("acme", OTHER_DIGEST, BOTH),
                ApiKey("b-2", DIGEST, frozenset({Scope.CONSUME})),
            ),
        ),
        ("WEBHOOK_SIGNING_SECRETS", "", "signing_secrets", ()),
        ("WEBHOOK_SIGNING_SECRETS", "whsec_bmV3  whsec_b2xk", "signing_secrets", (b"new", b"old")),
    ],
)
def test_a_variable_that_is_set_counts(name: str, value: str, attribute: str, expected: object) -> None:
    assert getattr(load(REQUIRED | {name: value}), attribute) == expected


SECONDS = ["x", "-1", "nan", "inf", "1e9", "1,5", "5 s"]
UP_TO_20 = [*SECONDS, "0", "-0.0", "20.001"]
UNUSABLE = {
    "EVENTS_TABLE_NAME": [""],
    "INBOX_QUEUE_URL": ["", "inbox-queue", "sqs://host/q", "https://", "https://ho st/q"],
    "INBOX_DLQ_URL": ["", "inbox-dlq", "/1/dlq"],
    "API_KEYS": [
        *("acme", "acme:", f":{DIGEST}", f"acme:{DIGEST[1:]}", f"acme:{DIGEST}0", f"acme:{'g' * 64}"),
        *(f"acme:{DIGEST}:", f"acme:{DIGEST}:admin", f"acme:{DIGEST}:produce+", f"acme:{DIGEST}:produce:consume"),
        *(f"ac\x00me:{DIGEST}", f"acme:{DIGEST};b:{DIGEST}", f"acme:{DIGEST},acme"),
    ],
    "WEBHOOK_SIGNING_SECRETS": ["bmV3", "whsec_", "whsec_bmV", "whsec_bm!V3", "whsec_bmV3,whsec_b2xk", "whsec_é"],
    "MAX_DELIVERY_ATTEMPTS": ["x", "0", "-1", "1.5", "1001", "nan", "9" * 5000],
    "BACKOFF_BASE_SECONDS": SECONDS,
    "BACKOFF_CAP_SECONDS": SECONDS,
    "IN_PROCESS_WAIT_SECONDS": [*SECONDS, "901"],
    "PUSH_TIMEOUT_SECONDS": UP_TO_20,
    "PUSH_CONNECT_TIMEOUT_SECONDS": UP_TO_20,
    "INLINE_PUSH_TIMEOUT_SECONDS": UP_TO_20,
    "BREAKER_FAILURES": ["x", "0", "2.5"],
    "BREAKER_OPEN_SECONDS": SECONDS,
    "EVENT_RETENTION_DAYS": ["x", "0", "0.5"],
    "STAGE": ["my stage", "dev/x", "é", "x" * 33],
    "LOG_LEVEL": ["LOUD", "10", "NOTSET"],
    "METRICS_NAMESPACE": ["AWS/Lambda", "a b", "x" * 256],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in UNUSABLE.items() for value in values])
def test_an_unusable_value_is_named_alone_and_never_repeated(name: str, value: str) -> None:
    (fault,) = faults(REQUIRED | {name: value})
    assert names([fault]) == [name]
    assert not value or value not in fault.partition("must be")[0]


@pytest.mark.parametrize(
    "url",
    [
        *("https://hooks.zapier.com", "HTTPS://Hooks.Zapier.com/x", "https://example.com:8443/a?b=c#"),
        *("http://localhost:9000/hook", "http://127.0.0.1/hook", "http://127.8.8.8/", "http://[::1]:80/hook"),
    ],
)
def test_https_anywhere_and_http_to_this_machine_are_webhook_urls(url: str) -> None:
    assert load(REQUIRED | {"ZAPIER_WEBHOOK_URL": url}).webhook_url == url


@pytest.mark.parametrize(
    "url",
    [
        *("", "hook", "hooks.zapier.com/x", "ftp://example.com/x", "https://", "https:///x", "https://:443/x"),
        *("http://example.com/x", "http://127.0.0.1.example.com/x", "http://localhost.example.com", "http://10.0.0.1/"),
        *("https://user@example.com/", "https://user:word@example.com/", "https://@example.com/", "http://0.0.0.0/"),
        *("https://example.com/x#y", "https://example.com:0/", "https://example.com:99999/", "https://example.com:x/"),
        *("https://example.com/a b", "https://example.com/\tx", "https://exämple.com/", "https://[::1/x"),
        *("https://[v1.a]/x", "https://a%/x", "https://[::1]a/x", "https://a\\b/x"),  # no host
    ],
)
def test_every_other_webhook_url_is_unusable(url: str) -> None:
    assert names(faults(REQUIRED | {"ZAPIER_WEBHOOK_URL": url})) == ["ZAPIER_WEBHOOK_URL"]


def test_all_faults_stand_in_one_line() -> None:
    unusable = {"PUSH_TIMEOUT_SECONDS": "0", "STAGE": "a b", "MAX_DELIVERY_ATTEMPTS": "none"}
    found = faults(unusable)
    assert sorted(names(found)) == sorted([*REQUIRED, *unusable])
    assert sum(" is missing: it must be " in fault for fault in found) == len(REQUIRED)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ZAPIER_WEBHOOK_URL", "http://hooks.example.com/S3CRET?S3CRET"),
        ("ZAPIER_WEBHOOK_URL", "https://[S3CRET/x"),
        ("ZAPIER_WEBHOOK_URL", "https://example.com:S3CRET/"),
        ("API_KEYS", f"acme:S3CRET,b:{DIGEST}"),
        ("API_KEYS", f"acme:{DIGEST}:S3CRET"),
        ("WEBHOOK_SIGNING_SECRETS", "whsec_S3CRET"),
        ("WEBHOOK_SIGNING_SECRETS", "S3CRET"),
    ],
)
def test_neither_the_line_nor_its_trace_holds_a_secret(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as stopped:
        load(REQUIRED | {name: value})
    assert "S3CRET" not in "".join(traceback.format_exception(stopped.value))


def test_the_event_source_has_defaults_and_reads_nothing_required() -> None:
    assert load_event_source({}) == EventSource("dev", 5, 5)
    environ = {"STAGE": "prod", "WORKER_BATCH_WINDOW_SECONDS": "0", "WORKER_MAX_CONCURRENCY": "2"}
    assert load_event_source(environ) == EventSource("prod", 0, 2)
    assert load_event_source(environ).queue_name == "triggers-api-prod-inbox-queue"


def test_the_event_sources_faults_stand_in_one_line_too() -> None:
    environ = {"STAGE": "?", "WORKER_BATCH_WINDOW_SECONDS": "301", "WORKER_MAX_CONCURRENCY": "1"}  # SQS wants 2
    with pytest.raises(SettingsError) as stopped:
        load_event_source(environ)
    assert names(str(stopped.value).split("; ")) == list(environ)
