"""Authenticate callers by API keys, which have scopes, and by tokens, each for one tenant.

Of API keys, only SHA-256 hashes are stored; tokens are not stored at all.
"""

import base64
import hashlib
import hmac

from chalicelib.infra.errors import ApiError
from chalicelib.infra.parsing import Parsers
from chalicelib.infra.times import rfc3339
from chalicelib.settings import ApiKey, Scope, Settings

PREFIX = "trt_"
TOKEN = "token"  # noqa: S105 - the only scope of a token


def make_token(
    key: ApiKey,
    tenant: str,
    expires_at: int,
    settings: Settings,
) -> str:
    """Return a new token for a tenant, signed with the first signing secret and an API key.

    Raises ApiError 409 if no signing secret is set.

    :param key: The API key of the caller; the token is valid as long as this key is.
    :param expires_at: Unix seconds, at which the token expires.
    """
    if not settings.signing_secrets:
        raise ApiError(409, "no_signing_secret", "WEBHOOK_SIGNING_SECRETS is not set.")
    return _sign(f"{tenant}\0{expires_at}\0{key.name}", key, settings.signing_secrets[0])


def read_token(text: str, settings: Settings, now: float) -> ApiKey | None:
    """Return the tenant and the expiry of a valid token as an ApiKey with the scope TOKEN.

    A token is valid if a configured signing secret and an API key with the scope consume make the
    same text. Keys without this scope do not count: a producer that also receives pushes knows such
    a key and a signing secret, and could forge tokens.

    :param text: The token as its bearer sent it; any text.
    :param now: Unix seconds.
    :returns: None if the token has expired or is not valid.
    :raises ApiError: 403 if the token's tenant is suspended.
    """
    try:
        token = text.encode()
        encoded = text.removeprefix(PREFIX).split(".")[0]
        content = base64.urlsafe_b64decode(f"{encoded}==").decode()
        tenant, end, key_name = content.split("\0")
        expires_at = int(end)
    except ValueError:
        return None
    candidates = [
        _sign(content, entry, secret).encode()
        for entry in settings.api_keys
        if entry.name == key_name and Scope.CONSUME in entry.scopes
        for secret in settings.signing_secrets
    ]
    is_valid = any(hmac.compare_digest(candidate, token) for candidate in candidates)
    if expires_at <= now or not is_valid:
        return None
    if tenant in settings.suspended_tenants:
        raise ApiError(403, "suspended", "The tenant of this token is suspended.")
    return ApiKey(
        name=f"tenant:{tenant}",
        digest="",  # a token is not in the settings, and has no digest there
        scopes=frozenset({TOKEN}),
        tenant=tenant,
        expires_at=rfc3339(expires_at),
    )


def _sign(content: str, key: ApiKey, signing_secret: bytes) -> str:
    """Return a token: its content and an HMAC-SHA256 of the content, both in base64url.

    The key of the HMAC derives from the signing secret and from the digest of the API key:
    receivers of the webhook know a signing secret, and readers of the configuration know the
    digest, but neither can forge a token.

    :param content: Tenant, expiry in Unix seconds and name of the API key, separated by NUL.
    """
    secret = hmac.digest(signing_secret, f"tenant-token\0{key.digest}".encode(), "sha256")
    tag = hmac.digest(secret, content.encode(), "sha256")
    return f"{PREFIX}{_base64url(content.encode())}.{_base64url(tag)}"


def _base64url(data: bytes) -> str:
    """Return the base64url of data, without padding (RFC 4648, section 5)."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def authenticate(authorization: str, settings: Settings, now: float) -> ApiKey:
    """Return the configured API key, or the token, of an Authorization header.

    The scheme is Bearer, or Basic with the key as the password or, without a password, as the user
    name. All API keys are compared in constant time.

    :param authorization: The value of the header; empty: the request has no such header.
    :param now: Unix seconds.
    :raises ApiError: 401 if the key or token is not valid, 403 if its tenant is suspended.
    """
    scheme, _, credentials = authorization.strip().partition(" ")
    # The function that returns the key in the credentials; None: the scheme is unknown.
    read_key = SCHEMES.get(scheme.lower())
    key = read_key(credentials.strip()) if read_key else ""
    digest = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
    matches = [entry for entry in settings.api_keys if hmac.compare_digest(entry.digest, digest)]
    found = matches[0] if matches else read_token(key, settings, now)
    # An empty key is refused, even if an API key is configured with the digest of the empty text.
    if not key or not found:
        detail = "A valid API key is required: Authorization: Bearer <key>."
        raise ApiError(401, "unauthorized", detail, {"WWW-Authenticate": "Bearer"})
    return found


def _basic_key(credentials: str) -> str:
    """Return the password of Basic credentials (RFC 7617), or the user name if the password is
    empty; empty if the credentials are malformed.
    """
    try:
        decoded = base64.b64decode(credentials, validate=True).decode()
    except ValueError:  # not base64 or not UTF-8
        return ""
    user, _, password = decoded.partition(":")
    return password or user


SCHEMES: Parsers = {"bearer": str, "basic": _basic_key}


def visible_tenant(key: ApiKey, tenant: str | None) -> str | None:
    """Return the tenant to which a call is limited: a token's own tenant or, with an API key, the
    tenant that the caller asks for.

    :param tenant: The tenant that the caller asks for; None: the caller names no tenant.
    :returns: None if an API key asks for no tenant: the call is not limited.
    :raises ApiError: 403 if a token asks for another tenant.
    """
    visible = key.tenant or tenant
    if tenant not in (None, visible):
        raise ApiError(403, "forbidden", "A token may only be used for its own tenant.")
    return visible
