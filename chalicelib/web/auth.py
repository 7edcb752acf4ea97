"""Who calls, and what they may: API keys with their scopes, and tokens. Only SHA-256 hashes of keys are stored."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Collection, Iterable

from chalicelib.customers.tokens import read_token
from chalicelib.infra.errors import ApiError
from chalicelib.settings import ApiKey


def authenticate(authorization: str, keys: Collection[ApiKey], signing_secrets: Iterable[bytes], now: float) -> ApiKey:
    """Return the entry of the key, or the token, in an Authorization header.

    Bearer, or Basic with it as the password, or as the user name without one. Raises ApiError 401. All entries are
    compared in constant time.
    """
    scheme, _, credentials = authorization.strip().partition(" ")
    key = SCHEMES.get(scheme.lower(), _no_key)(credentials.strip())
    digest = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
    matches = [entry for entry in keys if hmac.compare_digest(entry.digest, digest)]
    found = next(iter(matches), None) or read_token(key, keys, signing_secrets, now)
    if not key or not found:
        raise ApiError(401, "unauthorized", "A valid API key is required: Authorization: Bearer <key>.")
    return found


def _basic_key(credentials: str) -> str:
    """Return the password of Basic credentials (RFC 7617), else the user name, or "" if they are malformed."""
    try:
        user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
        return password or user
    except ValueError:  # not base64 or not UTF-8
        return ""


def _no_key(_: str) -> str:
    return ""


SCHEMES: dict[str, Callable[[str], str]] = {"bearer": str, "basic": _basic_key}


def visible_tenant(key: ApiKey, tenant: str | None) -> str | None:
    """Return the tenant that a call asks for, of a token its own; raise ApiError 403 if it asks for another."""
    if key.tenant is not None and tenant not in (None, key.tenant):
        raise ApiError(403, "forbidden", "A token is for its own tenant alone.")
    return key.tenant or tenant
