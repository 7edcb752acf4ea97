"""API keys and their scopes. Only SHA-256 hashes of keys are stored."""

import base64
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from chalicelib.errors import ApiError
from chalicelib.events import Event


class Scope(StrEnum):
    PRODUCE = "produce"
    CONSUME = "consume"
    ERASE = "erase"


DEFAULT_SCOPES = (Scope.PRODUCE, Scope.CONSUME)


@dataclass(frozen=True)
class ApiKey:
    """One entry of API_KEYS: `digest` is the lower-case SHA-256 of the key in hexadecimal."""

    name: str
    digest: str
    scopes: frozenset[Scope]

    def may_read(self, event: Event) -> bool:
        """Return whether the key sees an event: without the scope consume, only what it posted itself."""
        return Scope.CONSUME in self.scopes or event.created_by == self.name


def authenticate(authorization: str | None, keys: Iterable[ApiKey]) -> ApiKey:
    """Return the entry of the key in an Authorization header (Bearer, or Basic with the key as password).

    Raises ApiError 401. All entries are compared in constant time.
    """
    scheme, _, credentials = (authorization or "").strip().partition(" ")
    key = credentials.strip()
    if scheme.lower() == "basic":
        key = _basic_password(key)
    elif scheme.lower() != "bearer":
        key = ""
    digest = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
    matches = [entry for entry in keys if hmac.compare_digest(entry.digest, digest)]
    if not key or not matches:
        raise ApiError(401, "unauthorized", "A valid API key is required: Authorization: Bearer <key>.")
    return matches[0]


def authorize(key: ApiKey, scopes: Iterable[Scope]) -> None:
    """Raise ApiError 403 unless `key` has one of `scopes`."""
    if key.scopes.isdisjoint(scopes):
        raise ApiError(403, "forbidden", f"This key lacks the scope {' or '.join(scopes)}.")


def _basic_password(credentials: str) -> str:
    """Return the password of Basic credentials (RFC 7617), or "" if they are malformed."""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:  # not base64 or not UTF-8
        return ""
