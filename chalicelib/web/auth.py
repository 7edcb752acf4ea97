"""API keys and their scopes, and tokens. Only SHA-256 hashes of keys are stored, and nothing of tokens.

A token is a key for one tenant; it carries that tenant, its end and the name of the API key that made it.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from chalicelib.core.event import Event
from chalicelib.infra.errors import ApiError
from chalicelib.infra.times import rfc3339
from chalicelib.web.validation import Check, check_event_type, integer, parse_object


class Scope(StrEnum):
    PRODUCE = "produce"
    CONSUME = "consume"
    ERASE = "erase"


PREFIX = "trt_"  # of tokens
DEFAULT_SECONDS, MIN_SECONDS, MAX_SECONDS = 3600, 60, 30 * 24 * 3600
DEFAULT_SCOPES = (Scope.PRODUCE, Scope.CONSUME)
TOKEN_MEMBERS: dict[str, Check] = {"tenant": check_event_type, "expires_in_seconds": integer(MAX_SECONDS, MIN_SECONDS)}


@dataclass(frozen=True)
class ApiKey:
    """One entry of API_KEYS: `digest` is the lower-case SHA-256 of the key in hexadecimal.

    A token has no scopes, but a tenant and an end (RFC 3339). Its name cannot be that of an entry, which has no colon.
    """

    name: str
    digest: str
    scopes: frozenset[Scope]
    tenant: str | None = None
    expires_at: str | None = None

    @property
    def sees_responses(self) -> bool:
        """Whether the key sees what receivers responded."""
        return Scope.CONSUME in self.scopes or self.tenant is not None

    def may_read(self, event: Event, find_subscription: Callable[[str], object | None]) -> bool:
        """Return whether the key sees an event: without the scope consume, only what it posted itself.

        A token sees copies whose subscription `find_subscription` finds for its tenant: the tenant's events, and their
        copies for subscriptions without a tenant, name the tenant, too.
        """
        if self.tenant is None:
            return Scope.CONSUME in self.scopes or event.created_by == self.name
        return event.subscription_id is not None and find_subscription(event.subscription_id) is not None


def authenticate(
    authorization: str | None, keys: Collection[ApiKey], signing_secrets: Iterable[bytes], now: float
) -> ApiKey:
    """Return the entry of the key, or the token, in an Authorization header.

    Bearer, or Basic with it as the password, or as the user name without one. Raises ApiError 401. All entries are
    compared in constant time.
    """
    scheme, _, credentials = (authorization or "").strip().partition(" ")
    key = credentials.strip()
    if scheme.lower() == "basic":
        key = _basic_key(key)
    elif scheme.lower() != "bearer":
        key = ""
    digest = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
    matches = [entry for entry in keys if hmac.compare_digest(entry.digest, digest)]
    found = matches[0] if matches else _read_token(key, keys, signing_secrets, now)
    if not key or not found:
        raise ApiError(401, "unauthorized", "A valid API key is required: Authorization: Bearer <key>.")
    return found


def authorize(key: ApiKey, scopes: Iterable[Scope], *, takes_tokens: bool) -> None:
    """Raise ApiError 403 unless `key` has one of `scopes`, or is a token and the call takes those."""
    if key.tenant is not None and not takes_tokens:
        raise ApiError(403, "forbidden", "A token may not make this call.")
    if key.tenant is None and key.scopes.isdisjoint(scopes):
        raise ApiError(403, "forbidden", f"This key lacks the scope {' or '.join(scopes)}.")


def visible_tenant(key: ApiKey, tenant: str | None) -> str | None:
    """Return the tenant that a call asks for, of a token its own; raise ApiError 403 if it asks for another."""
    if key.tenant is not None and tenant not in (None, key.tenant):
        raise ApiError(403, "forbidden", "A token is for its own tenant alone.")
    return key.tenant or tenant


def parse_token_request(body: bytes) -> tuple[str, int]:
    """Return the tenant of a new token and its life in seconds; raise InvalidRequestError with every fault."""
    document, _ = parse_object(body, TOKEN_MEMBERS, ("tenant",))
    return document["tenant"], int(document.get("expires_in_seconds", DEFAULT_SECONDS))


def make_token(key: ApiKey, tenant: str, expires_at: int, signing_secrets: Sequence[bytes]) -> str:
    """Return a token made by `key`; `expires_at` is in Unix seconds. Raises ApiError 409 without signing secrets."""
    if not signing_secrets:
        raise ApiError(409, "no_signing_secret", "Tokens need WEBHOOK_SIGNING_SECRETS, which is not set.")
    return _sign(f"{tenant}\0{expires_at}\0{key.name}", key, signing_secrets[0])


def _sign(content: str, key: ApiKey, signing_secret: bytes) -> str:
    """Return the token as its bearer shows it.

    It takes both secrets to make one: receivers of the webhook know a signing secret, readers of a configuration the
    digest of an API key.
    """
    secret = hmac.digest(signing_secret, f"tenant-token\0{key.digest}".encode(), "sha256")
    tag = hmac.digest(secret, content.encode(), "sha256")
    encoded = [base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (content.encode(), tag)]
    return PREFIX + ".".join(encoded)


def _read_token(text: str, keys: Iterable[ApiKey], signing_secrets: Iterable[bytes], now: float) -> ApiKey | None:
    """Return the key that a token is, or None if it expired or nothing that is configured makes this very text.

    An entry without the scope consume makes none: else whoever posts and receives events could forge them.
    """
    try:
        content = base64.urlsafe_b64decode(text.removeprefix(PREFIX).partition(".")[0] + "==").decode()
        tenant, end, key_name = content.split("\0")
        expires_at = int(end)
    except ValueError:
        return None
    entries = [entry for entry in keys if entry.name == key_name and Scope.CONSUME in entry.scopes]
    made = (_sign(content, entry, secret).encode() for entry in entries for secret in signing_secrets)
    if expires_at <= now or not any(hmac.compare_digest(each, text.encode("utf-8", "replace")) for each in made):
        return None
    return ApiKey(f"tenant:{tenant}", "", frozenset(), tenant, rfc3339(expires_at))


def _basic_key(credentials: str) -> str:
    """Return the password of Basic credentials (RFC 7617), else the user name, or "" if they are malformed."""
    try:
        user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
        return password or user
    except ValueError:  # not base64 or not UTF-8
        return ""
