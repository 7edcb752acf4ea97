"""Tokens: keys for one tenant that carry their end and the name of the API key that made them. None is stored."""

import base64
import hmac
from dataclasses import dataclass

from chalicelib.validation import Check, check_event_type, integer, parse_object

PREFIX = "trt_"
DEFAULT_SECONDS, MIN_SECONDS, MAX_SECONDS = 3600, 60, 30 * 24 * 3600
MEMBERS: dict[str, Check] = {"tenant": check_event_type, "expires_in_seconds": integer(MAX_SECONDS, MIN_SECONDS)}


@dataclass(frozen=True)
class Token:
    """What a token says: `expires_at` is in Unix seconds, `key_name` the name of the API key that made it."""

    tenant: str
    expires_at: int
    key_name: str

    @classmethod
    def parse(cls, text: str) -> "Token":
        """Return what a text says, whoever made it; raise ValueError if it says nothing."""
        content = base64.urlsafe_b64decode(text.removeprefix(PREFIX).partition(".")[0] + "==")
        tenant, expires_at, key_name = content.decode().split("\0")
        return cls(tenant, int(expires_at), key_name)

    def sign(self, key_digest: str, signing_secret: bytes) -> str:
        """Return the token as its bearer shows it.

        It takes both secrets to make one: receivers of the webhook know a signing secret, readers of a configuration
        the digest of an API key.
        """
        content = f"{self.tenant}\0{self.expires_at}\0{self.key_name}".encode()
        key = hmac.digest(signing_secret, f"tenant-token\0{key_digest}".encode(), "sha256")
        return f"{PREFIX}{_encode(content)}.{_encode(hmac.digest(key, content, 'sha256'))}"


def parse_request(body: bytes) -> tuple[str, int]:
    """Return the tenant of a new token and its life in seconds; raise InvalidRequestError with every fault."""
    document, _ = parse_object(body, MEMBERS, ("tenant",))
    return document["tenant"], int(document.get("expires_in_seconds", DEFAULT_SECONDS))


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
