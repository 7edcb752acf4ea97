"""Who calls, and what they may: API keys with their scopes, and tokens. Only SHA-256 hashes of keys
are stored.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Collection, Iterable, Sequence

from chalicelib.infra.errors import ApiError
from chalicelib.infra.times import rfc3339
from chalicelib.settings import ApiKey, Scope

PREFIX = "trt_"
TOKEN = "token"  # noqa: S105 - what a token has in place of scopes


def make_token(key: ApiKey, tenant: str, expires_at: int, signing_secrets: Sequence[bytes]) -> str:
    """Return a token made by `key`; `expires_at` is in Unix seconds. Raises ApiError 409 without
    signing secrets.
    """
    if not signing_secrets:
        raise ApiError(
            409, "no_signing_secret", "Tokens need WEBHOOK_SIGNING_SECRETS, which is not set."
        )
    return _sign(f"{tenant}\0{expires_at}\0{key.name}", key, signing_secrets[0])


def read_token(
    text: str, keys: Iterable[ApiKey], signing_secrets: Iterable[bytes], now: float
) -> ApiKey | None:
    """Return the key that a token is, or None if it expired or nothing that is configured makes
    this very text.

    An entry without the scope consume makes none: else whoever posts and receives events could
    forge them.
    """
    try:
        token = text.encode()
        content = base64.urlsafe_b64decode(
            text.removeprefix(PREFIX).partition(".")[0] + "=="
        ).decode()
        tenant, end, key_name = content.split("\0")
        expires_at = int(end)
    except ValueError:
        return None
    entries = [entry for entry in keys if entry.name == key_name and Scope.CONSUME in entry.scopes]
    made = (
        _sign(content, entry, secret).encode() for entry in entries for secret in signing_secrets
    )
    if expires_at <= now or not any(hmac.compare_digest(candidate, token) for candidate in made):
        return None
    return ApiKey(f"tenant:{tenant}", "", frozenset({TOKEN}), tenant, rfc3339(expires_at))


def _sign(content: str, key: ApiKey, signing_secret: bytes) -> str:
    """Return the token as its bearer shows it.

    It takes both secrets to make one: receivers of the webhook know a signing secret, readers of a
    configuration the digest of an API key.
    """
    secret = hmac.digest(signing_secret, f"tenant-token\0{key.digest}".encode(), "sha256")
    tag = hmac.digest(secret, content.encode(), "sha256")
    encoded = [
        base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (content.encode(), tag)
    ]
    return PREFIX + ".".join(encoded)


def authenticate(
    authorization: str, keys: Collection[ApiKey], signing_secrets: Iterable[bytes], now: float
) -> ApiKey:
    """Return the entry of the key, or the token, in an Authorization header.

    Bearer, or Basic with it as the password, or as the user name without one. Raises ApiError 401.
    All entries are compared in constant time.
    """
    scheme, _, credentials = authorization.strip().partition(" ")
    read = SCHEMES.get(scheme.lower())
    key = read(credentials.strip()) if read else ""
    digest = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
    matches = [entry for entry in keys if hmac.compare_digest(entry.digest, digest)]
    found = next(iter(matches), None) or read_token(key, keys, signing_secrets, now)
    if not key or not found:
        raise ApiError(
            401, "unauthorized", "A valid API key is required: Authorization: Bearer <key>."
        )
    return found


def _basic_key(credentials: str) -> str:
    """Return the password of Basic credentials (RFC 7617), else the user name, or "" if they are
    malformed.
    """
    try:
        user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
        return password or user
    except ValueError:  # not base64 or not UTF-8
        return ""


SCHEMES: dict[str, Callable[[str], str]] = {"bearer": str, "basic": _basic_key}


def visible_tenant(key: ApiKey, tenant: str | None) -> str | None:
    """Return the tenant that a call asks for, of a token its own; raise ApiError 403 if it asks for
    another.
    """
    if key.tenant is not None and tenant not in (None, key.tenant):
        raise ApiError(403, "forbidden", "A token is for its own tenant alone.")
    return key.tenant or tenant
