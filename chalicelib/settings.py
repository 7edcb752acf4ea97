"""Read and validate the environment variables, and the secret that completes them.

Faults name the variable and what it should be; a value is never repeated, because it may be a
secret.
"""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from chalicelib.infra.addresses import (
    EXPECTED_URL,
    PUSH_URL,
    AllowedHosts,
    checked_url,
    parse_allowed_hosts,
)
from chalicelib.infra.catalogue import parse_catalogue
from chalicelib.infra.errors import FieldFault, SettingsError
from chalicelib.infra.parsing import EVENT_TYPE, Json, Parser, Parsers, parse_all, parser
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import DAY_SECONDS

# Values of ZAPIER_WEBHOOK_URL in place of a URL. Only copies are pushed; with PULL_ONLY, events
# wait in the inbox for consumers.
PULL_ONLY = "none"
COPIES_ONLY = "subscriptions"
DEFAULT_HOSTS = AllowedHosts(("hooks.zapier.com",))
CATALOGUE = Path(__file__).parent / "event_types.json"
Variables = Mapping[str, str]
SecretReader = Callable[[str], str]  # returns the text of a secret by its name


class Scope(StrEnum):
    PRODUCE = "produce"
    CONSUME = "consume"
    ERASE = "erase"


@dataclass(frozen=True)
class ApiKey:
    """An entry of API_KEYS, or a token."""

    # The name of the entry or, for a token, `tenant:<tenant>`; names of entries have no colon.
    name: str
    # The lower-case SHA-256 of the key in hexadecimal; empty for a token.
    digest: str
    # Scopes of the entry or, for a token, `token` alone.
    scopes: frozenset[str]
    # The tenant of a token; None for an entry.
    tenant: str | None = None
    # When a token expires (RFC 3339); None for an entry.
    expires_at: str | None = None

    @property
    def is_token(self) -> bool:
        """Whether this is a customer's token, not an entry of API_KEYS."""
        return self.tenant is not None


def decode_secret(text: str) -> bytes:
    """Return the bytes of a secret in the form of Standard Webhooks (whsec_ and base64); raise
    ValueError.
    """
    return base64.b64decode(text.removeprefix("whsec_"), validate=True)


def _decode_signing_secrets(text: str) -> tuple[bytes, ...]:
    """Return the bytes of signing secrets that are separated by spaces; raise ValueError."""
    return tuple(map(decode_secret, text.split()))


def _split_api_keys(text: str) -> tuple[ApiKey, ...]:
    """Return the API keys of a list that is separated by commas; raise InvalidValueError."""
    return tuple(parse_api_key(entry.strip()) for entry in text.split(",") if entry.strip())


def _make_api_key(entry: str) -> ApiKey:
    """Return the API key of an entry of API_KEYS; without scopes it has produce and consume."""
    name, digest, scopes = f"{entry}:produce+consume".split(":")[:3]
    return ApiKey(name, digest.lower(), frozenset(scopes.split("+")))


def _setting(
    parse: Parser,
    default: Any = MISSING,
    *,
    name: str = "",
    secret: bool = False,
) -> Any:
    """Declare a field of Settings that is read from an environment variable.

    :param parse: Returns the value of the variable's text; raises InvalidValueError.
    :param default: The value if the variable is not set; MISSING: the variable is required.
    :param name: The name of the variable; empty: the name of the field in capital letters.
    :param secret: Whether `repr()` leaves the value out.
    """
    metadata = {"name": name, "parse": parse}
    return field(default=default, repr=not secret, metadata=metadata)


def _number(default: float, minimum: float, maximum: float) -> Any:
    """Declare a setting that is a number from `minimum` to `maximum`: an integer if the default is
    an integer.
    """
    kind = type(default)
    noun = {int: "an integer", float: "a number"}[kind]

    def convert(text: str) -> float:
        """Return the number of a text; raise ValueError if it is not in the range."""
        number = kind(text)
        if not minimum <= number <= maximum:
            raise ValueError
        return number

    parse = parser(r"[0-9]*\.?[0-9]+", f"{noun} from {minimum} to {maximum}", convert)
    return _setting(parse, default)


API_KEYS_FORM = (
    "name:sha256hex[:scope+scope], separated by commas, with the scopes produce, consume and erase"
)
SCOPE = f"({'|'.join(Scope)})"
parse_api_key = parser(
    rf"[^:\x00-\x1f\x7f-\x9f]{{1,64}}:[0-9a-fA-F]{{64}}(:{SCOPE}(\+{SCOPE})*)?",
    API_KEYS_FORM,
    _make_api_key,
)
parse_api_keys = parser("(?s).*", API_KEYS_FORM, _split_api_keys)
parse_log_level = parser(
    "(?ai)DEBUG|INFO|WARNING|ERROR|CRITICAL",
    "DEBUG, INFO, WARNING, ERROR or CRITICAL",
    str.upper,
)
parse_queue_url = parser(r"https?://\S+", "the URL of an SQS queue")
parse_webhook = parser(
    f"{PULL_ONLY}|{COPIES_ONLY}|{PUSH_URL}",
    f"{EXPECTED_URL}, none for pull-only, or subscriptions to push copies alone",
    checked_url,
)
# 24 to 64 bytes, by "Signature scheme" of Standard Webhooks
WHSEC_FORM = "whsec_ and base64 of 24 to 64 bytes"
WHSEC = r"whsec_[A-Za-z0-9+/]{32,86}={0,2}"
parse_signing_secrets = parser(
    rf"{WHSEC}(\s+{WHSEC})*",
    f"{WHSEC_FORM}, separated by spaces",
    _decode_signing_secrets,
)
# tenants are named as event types are
parse_names = parser(
    rf"{EVENT_TYPE.pattern}(\s*,\s*{EVENT_TYPE.pattern})*",
    "names of A-Z a-z 0-9 . _ - : /, separated by commas",
    EVENT_TYPE.findall,
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a function. Secrets are left out of `repr()`."""

    events_table_name: str = _setting(parser(".+", "the name of the DynamoDB table"))
    inbox_queue_url: str = _setting(parse_queue_url)
    inbox_dlq_url: str = _setting(parse_queue_url)
    slow_queue_url: str = _setting(parse_queue_url)
    webhook: str = _setting(parse_webhook, name="ZAPIER_WEBHOOK_URL", secret=True)
    api_keys: tuple[ApiKey, ...] = _setting(parse_api_keys, secret=True)
    signing_secrets: tuple[bytes, ...] = _setting(
        parse_signing_secrets, (), name="WEBHOOK_SIGNING_SECRETS", secret=True
    )
    subscription_hosts: AllowedHosts = _setting(parse_allowed_hosts, DEFAULT_HOSTS)
    max_delivery_attempts: int = _number(45, 1, 1000)
    backoff_base_seconds: float = _number(1.0, 0, DAY_SECONDS)
    backoff_cap_seconds: float = _number(7200.0, 0, DAY_SECONDS)
    in_process_wait_seconds: float = _number(8.0, 0, 900)
    push_timeout_seconds: float = _number(10.0, 0.01, 20)
    push_connect_timeout_seconds: float = _number(5.0, 0.01, 20)
    inline_push_timeout_seconds: float = _number(5.0, 0.01, 8)
    breaker_open_seconds: float = _number(30.0, 0, DAY_SECONDS)
    event_types: list[str] | None = _setting(parse_names, None)
    catalogue: Json | None = _setting(parse_catalogue, None, name=CATALOGUE.name, secret=True)
    suspended_tenants: Sequence[str] = _setting(parse_names, ())
    event_retention_days: int = _number(30, 1, 3650)
    subscription_disable_days: float = _number(3.0, 0, 3650)
    stage: str = _setting(parser("[A-Za-z0-9-]{1,32}", "1 to 32 of A-Z a-z 0-9 -"), "dev")
    log_level: str = _setting(parse_log_level, "INFO")
    worker_batch_window_seconds: int = _number(5, 0, 60)
    worker_max_concurrency: int = _number(5, 2, 1000)
    slow_max_concurrency: int = _number(5, 2, 1000)

    @property
    def webhook_url(self) -> str | None:
        """The URL to which events are pushed; None: only their copies are pushed."""
        return None if self.webhook in (PULL_ONLY, COPIES_ONLY) else self.webhook

    @property
    def offered_types(self) -> Json:
        """The event types that customers may choose from, each with its entry in the catalogue."""
        catalogue = self.catalogue or {}
        return {name: catalogue.get(name, {}) for name in self.event_types or catalogue}


BY_VARIABLE = {row.metadata["name"] or row.name.upper(): row for row in fields(Settings)}
PARSERS: Parsers = {name: row.metadata["parse"] for name, row in BY_VARIABLE.items()}
DEFAULTS = {row.name: row.default for row in BY_VARIABLE.values() if row.default is not MISSING}
REQUIRED = {name for name, row in BY_VARIABLE.items() if row.default is MISSING}


def load(environ: Variables, read_secret: SecretReader = lambda _: "") -> Settings:
    """Return the settings of environment variables and, if a required variable is not set, of the
    secret that SETTINGS_SECRET names.

    Variables that are set take precedence over the secret.

    :param read_secret: Returns the text of a Secrets Manager secret by its name; called at most
        once. By default secrets are empty, and only environment variables count.
    :raises SettingsError: Naming every missing or unusable variable.
    """
    variables = _set_variables(environ)
    if "SETTINGS_SECRET" in variables and not variables.keys() >= REQUIRED:
        text = read_secret(variables["SETTINGS_SECRET"])
        # NAME=value lines; others, such as # comments, are skipped.
        lines = dict(re.findall(r"^ *([A-Z_]+) *=(.*)$", text, re.MULTILINE))
        variables = _set_variables(lines) | variables
        _warn_about(*sorted(lines.keys() - PARSERS.keys()))
    values, unusable = parse(variables)
    # The parser of a required setting refuses None, and says what the variable must be.
    _, missing = parse_all(dict.fromkeys(REQUIRED - variables.keys()), PARSERS)
    faults = [f"{fault.field} is missing: it {fault.message}" for fault in missing]
    faults += unusable
    if faults:
        raise SettingsError("; ".join(faults))
    return Settings(**values)


class ParsedSettings(NamedTuple):
    """The result of parsing environment variables."""

    # The values of the settings that are set or have a default, by the name of the field.
    values: Json
    # A sentence for each setting that is set and unusable.
    unusable: list[str]


def parse(environ: Variables) -> ParsedSettings:
    """Return the values of settings, and a sentence for each setting that is unusable.

    A variable that is not set has the default of its setting. If the setting has no default, it has
    no value in the result; this is not reported. The catalogue is a setting, too, but its text is
    read from a file that is deployed with the code, if that file exists.

    :param environ: The texts of environment variables by name.
    """
    texts = _set_variables(environ)
    unreadable: list[FieldFault] = []
    try:
        texts[CATALOGUE.name] = CATALOGUE.read_bytes()
    except FileNotFoundError:
        pass  # there is no catalogue, and its default applies
    except OSError as error:  # a folder of this name
        unreadable.append(FieldFault(CATALOGUE.name, f"must be a file ({error.strerror})"))
    parsed, refused = parse_all(texts, PARSERS)  # by the names of the variables
    values = {**DEFAULTS}
    for variable, value in parsed.items():
        values[BY_VARIABLE[variable].name] = value  # the name of the field
    faults = [*refused, *unreadable]
    unusable = [f"{fault.field} is unusable: it {fault.message}" for fault in faults]
    return ParsedSettings(values, unusable)


@cache  # once for each container, which reads its settings again and again
def _warn_about(*unknown: str) -> None:
    """Log a warning with the names of unknown settings in the secret, if there are any."""
    if unknown:
        logger.warning("no such settings, ignored: %s", ", ".join(unknown))


def _set_variables(environ: Variables) -> Json:
    """Return the variables that are set, without spaces around their values.

    An empty variable counts as not set, except API_KEYS, which may be empty: no API keys.
    """
    stripped = {name: value.strip() for name, value in environ.items()}
    return {name: value for name, value in stripped.items() if value or name == "API_KEYS"}
