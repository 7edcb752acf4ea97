"""API keys: who calls, and what may they do.

Only hashes of keys are known here; a key itself is seen once, in the call that carries it.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from chalicelib.errors import ForbiddenError, UnauthorizedError


class Scope(StrEnum):
    PRODUCE = "produce"
    CONSUME = "consume"


@dataclass(frozen=True)
class ApiKey:
    """One entry of API_KEYS: `digest` is the lower-case SHA-256 of the key in hexadecimal."""

    name: str
    digest: str
    scopes: frozenset[Scope]


def authenticate(authorization: str | None, keys: Iterable[ApiKey]) -> ApiKey:
    """Return the entry whose key `Authorization: Bearer <key>` carries; raise UnauthorizedError.

    Every entry is compared, in constant time, so that the time taken tells nothing.
    """
    bearer = re.fullmatch(r"bearer +(\S+)", authorization or "", re.IGNORECASE)
    digest = hashlib.sha256(bearer[1].encode("utf-8", "replace") if bearer else b"").hexdigest()
    matches = [key for key in keys if hmac.compare_digest(key.digest, digest)]
    if not bearer or not matches:
        raise UnauthorizedError
    return matches[0]


def authorize(key: ApiKey, scopes: Iterable[Scope]) -> None:
    """Raise ForbiddenError unless `key` has one of `scopes`."""
    if key.scopes.isdisjoint(scopes):
        raise ForbiddenError(f"This key lacks the scope {' or '.join(scopes)}.")
