"""Who calls, and what they may: API keys with their scopes, and tokens.

Only SHA-256 hashes of keys are stored, and nothing of tokens.
"""

import base64
import hashlib
import hmac

from chalicelib.infra.errors import ApiError
from chalicelib.infra.parsing import Parsers
from chalicelib.infra.times import rfc3339
from chalicelib.settings import ApiKey, Scope, Settings

PREFIX = "trt_"
TOKEN = "token"  # noqa: S105 - what a token has in place of scopes


def make_token(
    key: ApiKey,
    tenant: str,
    expires_at: int,
    settings: Settings,
) -> str:
    """Return a token made by `key`; `expires_at` is in Unix seconds.

    Raises ApiError 409 if there is no signing secret.
    """
    if not settings.signing_secrets:
        raise ApiError(409, "no_signing_secret", "WEBHOOK_SIGNING_SECRETS is not set.")
    return _sign(f"{tenant}\0{expires_at}\0{key.name}", key, settings.signing_secrets[0])


def read_token(text: str, settings: Settings, now: float) -> ApiKey | None:
    """Return the key that a token is; None if it expired, or if nothing configured makes this text.

    Raises ApiError 403 if its tenant is suspended. An entry without the scope consume makes no
    token: else whoever posts and receives events could forge one.
    """
    try:
        token = text.encode()
        encoded = text.removeprefix(PREFIX).split(".")[0]
        content = base64.urlsafe_b64decode(f"{encoded}==").decode()
        tenant, end, key_name = content.split("\0")
        expires_at = int(end)
    except ValueError:
        return None
    made = [
        _sign(content, entry, secret).encode()
        for entry in settings.api_keys
        if entry.name == key_name and Scope.CONSUME in entry.scopes
        for secret in settings.signing_secrets
    ]
    is_made = any(hmac.compare_digest(candidate, token) for candidate in made)
    if expires_at <= now or not is_made:
        return None
    if tenant in settings.suspended_tenants:
        raise ApiError(403, "suspended", "The tenant of this token is suspended.")
    return ApiKey(
        f"tenant:{tenant}",
        "",
        frozenset({TOKEN}),
        tenant,
        rfc3339(expires_at),
    )


def _sign(content: str, key: ApiKey, signing_secret: bytes) -> str:
    """Return the token as its bearer shows it.

    It takes both secrets to make one: receivers of the webhook know a signing secret, readers of a
    configuration the digest of an API key.
    """
    secret = hmac.digest(signing_secret, f"tenant-token\0{key.digest}".encode(), "sha256")
    tag = hmac.digest(secret, content.encode(), "sha256")
    return f"{PREFIX}{_base64url(content.encode())}.{_base64url(tag)}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def authenticate(authorization: str, settings: Settings, now: float) -> ApiKey:
    """Return the entry of the key, or the token, in an Authorization header.

    Raises ApiError 401, and what `read_token` raises.
    The header is Bearer, or Basic with the key as the password, or as the user name without one.
    All entries are compared in constant time.
    """
    scheme, _, credentials = authorization.strip().partition(" ")
    read = SCHEMES.get(scheme.lower())
    key = read(credentials.strip()) if read else ""
    digest = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
    matches = [entry for entry in settings.api_keys if hmac.compare_digest(entry.digest, digest)]
    found = matches[0] if matches else read_token(key, settings, now)
    # An empty key is none, also where an entry has the digest of the empty text.
    if not key or not found:
        detail = "A valid API key is required: Authorization: Bearer <key>."
        raise ApiError(401, "unauthorized", detail, {"WWW-Authenticate": "Bearer"})
    return found


def _basic_key(credentials: str) -> str:
    """Return the password of Basic credentials (RFC 7617), else the user name; "" if malformed."""
    try:
        decoded = base64.b64decode(credentials, validate=True).decode()
    except ValueError:  # not base64 or not UTF-8
        return ""
    user, _, password = decoded.partition(":")
    return password or user


SCHEMES: Parsers = {"bearer": str, "basic": _basic_key}


def visible_tenant(key: ApiKey, tenant: str | None) -> str | None:
    """Return the tenant that a call asks for, which for a token is its own.

    Raises ApiError 403 if a token asks for another.
    """
    visible = key.tenant or tenant
    if tenant not in (None, visible):
        raise ApiError(403, "forbidden", "A token is for its own tenant alone.")
    return visible
